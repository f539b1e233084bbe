// Schedule  lanes of a warp share a row, four channels at a time; a block walks down its rows
// Budget    a row's share in registers: up to 8 x 4 channels a lane; backward: 16 bytes of shared
//           memory a thread and four channels, for the sums of gamma's gradient
#include <algorithm>

#include "kernels/common/cuda_launch.h"
#include "kernels/common/row_team.h"
#include "kernels/norm_silu/norm_silu.h"

namespace fastwan::kernels::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int64_t kMaxBlocks = 2048;  // of the backward: each leaves a row of partial sums
constexpr float kSmallest = 1e-12F;

// x / length * root in the order in which each type rounds it.
__device__ float normed(float x, float length, float root, const float* /*type*/) {
  return x * (root / length);
}
__device__ float normed(float x, float length, float root, const __nv_bfloat16* type) {
  return rounded(rounded(x / length, type) * root, type);
}

__device__ float sigmoid(float v) {
  return 1.0F / (1.0F + __expf(-v));
}

struct Share {
  int lanes, lane, row_in_block, rows_per_block;

  __device__ explicit Share(int lanes_of_row)
      : lanes(lanes_of_row),
        lane(static_cast<int>(threadIdx.x) % lanes_of_row),
        row_in_block(static_cast<int>(threadIdx.x) / lanes_of_row),
        rows_per_block(kThreads / lanes_of_row) {}
  __device__ int channel(int chunk) const { return (chunk * lanes + lane) * kWidth; }
};

// The lane's channels of a row, zeros beyond its end, and |row| of at least kSmallest.
template <int kShares, class Element>
__device__ float load_row(
    const Share& share, const Element* row, int C, bool is_there, Four (&x)[kShares]) {
  float squares = 0;
#pragma unroll
  for (int k = 0; k < kShares; ++k) {
    const int c = share.channel(k);
    x[k] = is_there && c < C ? load(row + c) : Four{};
#pragma unroll
    for (int j = 0; j < kWidth; ++j) {
      squares += x[k].at[j] * x[k].at[j];
    }
  }
  return fmaxf(sqrtf(sum_over(squares, share.lanes)), kSmallest);
}

template <int kShares, class Element>
__global__ void __launch_bounds__(kThreads) forward_kernel(
    const Element* x, const Element* gamma, Element* out, int64_t R, int C, int lanes) {
  const Share share(lanes);
  const float root = sqrtf(static_cast<float>(C));
  const int64_t step = static_cast<int64_t>(gridDim.x) * share.rows_per_block;
  for (int64_t first = static_cast<int64_t>(blockIdx.x) * share.rows_per_block; first < R;
       first += step) {
    const int64_t i = first + share.row_in_block;
    Four row[kShares];
    const float length = load_row(share, x + i * C, C, i < R, row);
#pragma unroll
    for (int k = 0; k < kShares; ++k) {
      const int c = share.channel(k);
      if (i < R && c < C) {
        const Four scale = load(gamma + c);
        Four y;
#pragma unroll
        for (int j = 0; j < kWidth; ++j) {
          const float v = rounded(normed(row[k].at[j], length, root, x) * scale.at[j], x);
          y.at[j] = v * sigmoid(v);
        }
        store(y, out + i * C + c);
      }
    }
  }
}

template <int kShares, class Element>
__global__ void __launch_bounds__(kThreads) backward_kernel(const Element* grad_out,
                                                            const Element* x,
                                                            const Element* gamma,
                                                            Element* grad_x,
                                                            float* grad_gamma,
                                                            int64_t R,
                                                            int C,
                                                            int lanes) {
  const Share share(lanes);
  const float root = sqrtf(static_cast<float>(C));
  const int64_t step = static_cast<int64_t>(gridDim.x) * share.rows_per_block;
  Four of_gamma[kShares] = {};
  for (int64_t first = static_cast<int64_t>(blockIdx.x) * share.rows_per_block; first < R;
       first += step) {
    const int64_t i = first + share.row_in_block;
    Four row[kShares], g[kShares];
    const float length = load_row(share, x + i * C, C, i < R, row);
    const float s = root / length;
    float along = 0;
#pragma unroll
    for (int k = 0; k < kShares; ++k) {
      const int c = share.channel(k);
      const bool is_there = i < R && c < C;
      const Four scale = is_there ? load(gamma + c) : Four{};
      g[k] = is_there ? load(grad_out + i * C + c) : Four{};
#pragma unroll
      for (int j = 0; j < kWidth; ++j) {
        const float u = s * row[k].at[j], v = u * scale.at[j], sig = sigmoid(v);
        const float grad_v = g[k].at[j] * sig * (1.0F + v * (1.0F - sig));
        of_gamma[k].at[j] += grad_v * u;
        g[k].at[j] = grad_v * scale.at[j];
        along += g[k].at[j] * row[k].at[j];
      }
    }
    along = sum_over(along, share.lanes);
    const float share_of_row = length > kSmallest ? along / length / length : 0.0F;
#pragma unroll
    for (int k = 0; k < kShares; ++k) {
      const int c = share.channel(k);
      if (i < R && c < C) {
        Four out;
#pragma unroll
        for (int j = 0; j < kWidth; ++j) {
          out.at[j] = s * (g[k].at[j] - row[k].at[j] * share_of_row);
        }
        store(out, grad_x + i * C + c);
      }
    }
  }
  // Rows of the block in their order, then one row of sums.
  __shared__ float sums[kThreads * kWidth];
#pragma unroll
  for (int k = 0; k < kShares; ++k) {
    __syncthreads();
    store(of_gamma[k], &sums[threadIdx.x * kWidth]);
    __syncthreads();
    const int width = share.lanes * kWidth;
    for (int j = static_cast<int>(threadIdx.x); j < width; j += kThreads) {
      float sum = 0;
      for (int r = 0; r < share.rows_per_block; ++r) {
        sum += sums[r * width + j];
      }
      const int c = k * width + j;
      if (c < C) {
        grad_gamma[static_cast<int64_t>(blockIdx.x) * C + c] = sum;
      }
    }
  }
}

int lanes_of(int64_t C) {
  int lanes = 1;
  while (lanes < kWarp && lanes * kWidth < C) {
    lanes *= 2;
  }
  return lanes;
}

int64_t blocks_of(int64_t R, int64_t C) {
  const int64_t rows = kThreads / lanes_of(C);
  return std::max<int64_t>(1, std::min(kMaxBlocks, (R + rows - 1) / rows));
}

// Calls body<chunks>() with enough chunks for C channels.
template <class Body>
void with_chunks(int64_t C, const Body& body) {
  const int64_t chunks = (C + lanes_of(C) * kWidth - 1) / (lanes_of(C) * kWidth);
  if (chunks <= 1) {
    body.template operator()<1>();
  } else if (chunks <= 2) {
    body.template operator()<2>();
  } else if (chunks <= 4) {
    body.template operator()<4>();
  } else {
    body.template operator()<8>();
  }
}

template <class Device, class Element>
void launch(const NormSiluArgs<Element>& a, int64_t R, void* stream) {
  if (R == 0) {
    return;
  }
  with_chunks(a.C, [&]<int kShares>() {
    forward_kernel<kShares><<<static_cast<unsigned>(blocks_of(R, a.C)), kThreads, 0,
                              static_cast<cudaStream_t>(stream)>>>(
        on_device<const Device>(a.x), on_device<const Device>(a.gamma), on_device<Device>(a.out), R,
        static_cast<int>(a.C), lanes_of(a.C));
  });
  check_launch("norm_silu");
}

template <class Device, class Element>
void launch_backward(const NormSiluBackwardArgs<Element>& a,
                     float* grad_gamma,
                     int64_t R,
                     void* stream) {
  with_chunks(a.C, [&]<int kShares>() {
    backward_kernel<kShares><<<static_cast<unsigned>(blocks_of(R, a.C)), kThreads, 0,
                               static_cast<cudaStream_t>(stream)>>>(
        on_device<const Device>(a.grad_out), on_device<const Device>(a.x),
        on_device<const Device>(a.gamma), on_device<Device>(a.grad_x), grad_gamma, R,
        static_cast<int>(a.C), lanes_of(a.C));
  });
  check_launch("norm_silu_backward");
}

}  // namespace

int64_t norm_silu_parts(int64_t R, int64_t C) {
  return blocks_of(R, C);
}

void norm_silu(const NormSiluArgs<float>& args, int64_t R, void* stream) {
  launch<float>(args, R, stream);
}

void norm_silu(const NormSiluArgs<Bf16>& args, int64_t R, void* stream) {
  launch<__nv_bfloat16>(args, R, stream);
}

void norm_silu_backward(const NormSiluBackwardArgs<float>& args,
                        float* grad_gamma,
                        int64_t R,
                        void* stream) {
  launch_backward<float>(args, grad_gamma, R, stream);
}

void norm_silu_backward(const NormSiluBackwardArgs<Bf16>& args,
                        float* grad_gamma,
                        int64_t R,
                        void* stream) {
  launch_backward<__nv_bfloat16>(args, grad_gamma, R, stream);
}

}  // namespace fastwan::kernels::cuda
