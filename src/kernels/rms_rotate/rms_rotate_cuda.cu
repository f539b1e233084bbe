// Schedule  the warps of a team share a row (kernels/common/row_team.h); a block walks down rows
// Budget    two chunks of four channels, four pairs, a lane; backward: 16 bytes of shared memory a
//           thread for the sums of teams
#include "kernels/common/cuda_launch.h"
#include "kernels/common/row_team.h"
#include "kernels/rms_rotate/rms_rotate.h"

namespace fastwan::kernels::cuda {
namespace {

struct Shape {
  int64_t R;
  int C, d;
  int64_t S;
  float eps;
};

// (cos, sin) of the lane's two pairs; no turn where there is no rotation.
__device__ Four turn_of(const Shape& shape, const float* rotation, int64_t row, int c) {
  return rotation != nullptr ? load(rotation + row % shape.S * shape.d + c % shape.d)
                             : Four{{1, 0, 1, 0}};
}

// Each pair times its turn, as complex numbers; `sign` -1 turns back.
__device__ Four turned(const Four& x, const Four& turn, float sign) {
  Four out;
#pragma unroll
  for (int j = 0; j < kWidth; j += 2) {
    const float cosine = turn.at[j], sine = sign * turn.at[j + 1];
    out.at[j] = x.at[j] * cosine - x.at[j + 1] * sine;
    out.at[j + 1] = x.at[j] * sine + x.at[j + 1] * cosine;
  }
  return out;
}

// 1 / sqrt(mean of squares + eps)
__device__ float scale_of(const Team& team, const Shape& shape, const Four (&x)[kChunks]) {
  float squares = 0;
#pragma unroll
  for (int k = 0; k < kChunks; ++k) {
#pragma unroll
    for (int j = 0; j < kWidth; ++j) {
      squares += x[k].at[j] * x[k].at[j];
    }
  }
  return rsqrtf(team.sum(squares, 0).x / static_cast<float>(shape.C) + shape.eps);
}

template <class Element>
__global__ void __launch_bounds__(kMaxThreads, 1) forward_kernel(const Element* x,
                                                                 const Element* weight,
                                                                 const float* rotation,
                                                                 Element* out,
                                                                 Shape shape,
                                                                 bool rounds_norm,
                                                                 int warps) {
  __shared__ float scratch[2 * kMaxTeam];
  const Team team(warps, scratch);
  const int64_t step = static_cast<int64_t>(gridDim.x) * team.count();
  for (int64_t first = static_cast<int64_t>(blockIdx.x) * team.count(); first < shape.R;
       first += step) {
    const int64_t i = first + team.index();
    Four row[kChunks];
    load_row(team, x + i * shape.C, shape.C, i < shape.R, row);
    const float scale = scale_of(team, shape, row);
#pragma unroll
    for (int k = 0; k < kChunks; ++k) {
      const int c = team.channel(k);
      if (i < shape.R && c < shape.C) {
        const Four w = load(weight + c);
        Four y;
#pragma unroll
        for (int j = 0; j < kWidth; ++j) {
          const float norm = row[k].at[j] * scale;
          y.at[j] = rounded((rounds_norm ? rounded(norm, x) : norm) * w.at[j], x);
        }
        store(turned(y, turn_of(shape, rotation, i, c), 1.0F), out + i * shape.C + c);
      }
    }
  }
}

template <class Element>
__global__ void __launch_bounds__(kMaxThreads, 1) backward_kernel(const Element* grad_out,
                                                                  const Element* x,
                                                                  const Element* weight,
                                                                  const float* rotation,
                                                                  Element* grad_x,
                                                                  float* grad_weight,
                                                                  Shape shape,
                                                                  int warps) {
  __shared__ float scratch[2 * kMaxTeam];
  __shared__ float lines[kMaxThreads * kWidth];
  const Team team(warps, scratch);
  const int64_t step = static_cast<int64_t>(gridDim.x) * team.count();
  Four of_weight[kChunks] = {};
  for (int64_t first = static_cast<int64_t>(blockIdx.x) * team.count(); first < shape.R;
       first += step) {
    const int64_t i = first + team.index();
    Four row[kChunks], g[kChunks];
    load_row(team, x + i * shape.C, shape.C, i < shape.R, row);
    load_row(team, grad_out + i * shape.C, shape.C, i < shape.R, g);  // before the sum waits
    const float scale = scale_of(team, shape, row);
    float along = 0;
#pragma unroll
    for (int k = 0; k < kChunks; ++k) {
      const int c = team.channel(k);
      const bool has = i < shape.R && c < shape.C;
      g[k] = has ? turned(g[k], turn_of(shape, rotation, i, c), -1.0F) : Four{};
      const Four w = has ? load(weight + c) : Four{};
#pragma unroll
      for (int j = 0; j < kWidth; ++j) {
        row[k].at[j] *= scale;
        of_weight[k].at[j] += g[k].at[j] * row[k].at[j];
        g[k].at[j] *= w.at[j];
        along += g[k].at[j] * row[k].at[j];
      }
    }
    along = team.sum(along, 0).x / static_cast<float>(shape.C);
#pragma unroll
    for (int k = 0; k < kChunks; ++k) {
      const int c = team.channel(k);
      if (i < shape.R && c < shape.C) {
        Four out;
#pragma unroll
        for (int j = 0; j < kWidth; ++j) {
          out.at[j] = (g[k].at[j] - row[k].at[j] * along) * scale;
        }
        store(out, grad_x + i * shape.C + c);
      }
    }
  }
  team.add_teams(of_weight, grad_weight + static_cast<int64_t>(blockIdx.x) * shape.C, shape.C,
                 lines);
}

unsigned blocks_of(int64_t R, int64_t C) {
  return static_cast<unsigned>(rms_rotate_parts(R, C));
}

template <class Args>
Shape shape_of(const Args& a, int64_t R) {
  return {.R = R,
          .C = static_cast<int>(a.C),
          .d = static_cast<int>(a.d),
          .S = a.S,
          .eps = static_cast<float>(a.eps)};
}

template <class Device, class Element>
void launch(const RmsRotateArgs<Element, float>& a, int64_t R, void* stream) {
  if (R == 0) {
    return;
  }
  const TeamShape team = team_shape(a.C);
  forward_kernel<<<blocks_of(R, a.C), static_cast<unsigned>(team.threads()), 0,
                   static_cast<cudaStream_t>(stream)>>>(
      on_device<const Device>(a.x), on_device<const Device>(a.weight), a.rotation,
      on_device<Device>(a.out), shape_of(a, R), a.rounds_norm, team.warps);
  check_launch("rms_rotate");
}

template <class Device, class Element>
void launch_backward(const RmsRotateBackwardArgs<Element, float>& a,
                     float* grad_weight,
                     int64_t R,
                     void* stream) {
  const TeamShape team = team_shape(a.C);
  backward_kernel<<<blocks_of(R, a.C), static_cast<unsigned>(team.threads()), 0,
                    static_cast<cudaStream_t>(stream)>>>(
      on_device<const Device>(a.grad_out), on_device<const Device>(a.x),
      on_device<const Device>(a.weight), a.rotation, on_device<Device>(a.grad_x), grad_weight,
      shape_of(a, R), team.warps);
  check_launch("rms_rotate_backward");
}

}  // namespace

bool takes_rms_rotate(int64_t C, int64_t d) {
  return takes_channels(C) && d > 0 && d % kWidth == 0;
}

int64_t rms_rotate_parts(int64_t R, int64_t C) {
  return row_blocks(R, 1, C);
}

void rms_rotate(const RmsRotateArgs<float, float>& args, int64_t R, void* stream) {
  launch<float>(args, R, stream);
}

void rms_rotate(const RmsRotateArgs<Bf16, float>& args, int64_t R, void* stream) {
  launch<__nv_bfloat16>(args, R, stream);
}

void rms_rotate_backward(const RmsRotateBackwardArgs<float, float>& args,
                         float* grad_weight,
                         int64_t R,
                         void* stream) {
  launch_backward<float>(args, grad_weight, R, stream);
}

void rms_rotate_backward(const RmsRotateBackwardArgs<Bf16, float>& args,
                         float* grad_weight,
                         int64_t R,
                         void* stream) {
  launch_backward<__nv_bfloat16>(args, grad_weight, R, stream);
}

}  // namespace fastwan::kernels::cuda
