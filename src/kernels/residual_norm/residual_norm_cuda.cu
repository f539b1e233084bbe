// Schedule  the warps of a team share a row (kernels/common/row_team.h); a block walks down rows of
//           one sample, the row stays in registers between its sums and its result
// Budget    two chunks of four channels a lane; backward: 16 bytes of shared memory a thread for
//           the sums of teams
#include "kernels/common/cuda_launch.h"
#include "kernels/common/row_team.h"
#include "kernels/residual_norm/residual_norm.h"

namespace fastwan::kernels::cuda {
namespace {

// A sample's row of modulation, or what counts where there is none.
__device__ Four of_sample(const PerSample<float>& values, int64_t b, int c, float otherwise) {
  return values.data != nullptr ? load(values.data + b * values.stride + c)
                                : Four{{otherwise, otherwise, otherwise, otherwise}};
}

struct Moments {
  float mean, scale;  // scale = 1 / sqrt(var + eps)
};

// Of the row's C channels; those beyond are zero.
__device__ Moments moments_of(const Team& team, const Four (&r)[kChunks], int C, float eps) {
  float sum = 0;
#pragma unroll
  for (int k = 0; k < kChunks; ++k) {
#pragma unroll
    for (int j = 0; j < kWidth; ++j) {
      sum += r[k].at[j];
    }
  }
  const float mean = team.sum(sum, 0).x / static_cast<float>(C);
  float squares = 0;
#pragma unroll
  for (int k = 0; k < kChunks; ++k) {
    if (team.channel(k) < C) {
#pragma unroll
      for (int j = 0; j < kWidth; ++j) {
        squares += (r[k].at[j] - mean) * (r[k].at[j] - mean);
      }
    }
  }
  return {mean, rsqrtf(team.sum(squares, 0).x / static_cast<float>(C) + eps)};
}

// x becomes x + gate * y. `y` is read where it is not null.
template <class Element>
__device__ void add_gated(const Team& team,
                          const ResidualNormRule<float>& rule,
                          const Element* y,
                          int64_t b,
                          bool is_there,
                          Four (&x)[kChunks]) {
#pragma unroll
  for (int k = 0; k < kChunks; ++k) {
    const int c = team.channel(k);
    if (is_there && c < rule.C) {
      const Four more = load(y + c), gate = of_sample(rule.gate, b, c, 1);
#pragma unroll
      for (int j = 0; j < kWidth; ++j) {
        x[k].at[j] = fmaf(more.at[j], gate.at[j], x[k].at[j]);
      }
    }
  }
}

template <class Element>
__device__ void round_all(const Element* type, Four (&x)[kChunks]) {
#pragma unroll
  for (int k = 0; k < kChunks; ++k) {
#pragma unroll
    for (int j = 0; j < kWidth; ++j) {
      x[k].at[j] = rounded(x[k].at[j], type);
    }
  }
}

template <class Element>
struct Pointers {
  const Element *x, *y;
  Element *sum, *out;
};

template <class Element>
__global__ void __launch_bounds__(kMaxThreads, 1)
    forward_kernel(Pointers<Element> p, ResidualNormRule<float> rule, int warps) {
  __shared__ float scratch[2 * kMaxTeam];
  const Team team(warps, scratch);
  const int C = static_cast<int>(rule.C);
  const int64_t b = blockIdx.y;
  const int64_t step = static_cast<int64_t>(gridDim.x) * team.count();
  for (int64_t first = static_cast<int64_t>(blockIdx.x) * team.count(); first < rule.S;
       first += step) {
    const int64_t s = first + team.index();
    const bool is_there = s < rule.S;
    const int64_t row = (b * rule.S + s) * rule.C;
    Four r[kChunks];
    load_row(team, p.x + row, C, is_there, r);
    if (p.y != nullptr) {
      add_gated(team, rule, p.y + row, b, is_there, r);
#pragma unroll
      for (int k = 0; k < kChunks; ++k) {
        const int c = team.channel(k);
        if (p.sum != nullptr && is_there && c < C) {
          store(r[k], p.sum + row + c);
        }
      }
      if (rule.reads_rounded) {
        round_all(p.x, r);
      }
    }
    if (p.out == nullptr) {
      continue;  // alike in all threads
    }
    const Moments m = moments_of(team, r, C, static_cast<float>(rule.eps));
#pragma unroll
    for (int k = 0; k < kChunks; ++k) {
      const int c = team.channel(k);
      if (is_there && c < C) {
        const Four scale = of_sample(rule.scale, b, c, 0), shift = of_sample(rule.shift, b, c, 0);
        Four out;
#pragma unroll
        for (int j = 0; j < kWidth; ++j) {
          float norm = (r[k].at[j] - m.mean) * m.scale;
          norm = rule.rounds_norm ? rounded(norm, p.x) : norm;
          const float w = rule.adds_one ? 1.0F + scale.at[j] : scale.at[j];
          out.at[j] = fmaf(norm, w, shift.at[j]);
        }
        store(out, p.out + row + c);
      }
    }
  }
}

template <class Element>
struct BackwardPointers {
  const Element *grad_sum, *grad_out, *x, *y;
  Element *grad_x, *grad_y;
};

// What lanes keep of a sample's rows: gradients of gate, scale and shift.
struct OfSample {
  Four gate[kChunks] = {}, scale[kChunks] = {}, shift[kChunks] = {};
};

// r becomes the gradient that the norm's input gets; `of` gets this row's share.
template <class Element>
__device__ void through_norm(const Team& team,
                             const ResidualNormRule<float>& rule,
                             const Element* grad_out,
                             int64_t b,
                             bool is_there,
                             OfSample& of,
                             Four (&r)[kChunks]) {
  const int C = static_cast<int>(rule.C);
  const Moments m = moments_of(team, r, C, static_cast<float>(rule.eps));
  Four g[kChunks];
  float sum = 0, along = 0;
#pragma unroll
  for (int k = 0; k < kChunks; ++k) {
    const int c = team.channel(k);
    const bool has = is_there && c < C;
    g[k] = has ? load(grad_out + c) : Four{};
    const Four scale = has ? of_sample(rule.scale, b, c, 0) : Four{};
#pragma unroll
    for (int j = 0; j < kWidth; ++j) {
      const float norm = has ? (r[k].at[j] - m.mean) * m.scale : 0.0F;
      of.scale[k].at[j] += g[k].at[j] * norm;
      of.shift[k].at[j] += g[k].at[j];
      g[k].at[j] *= rule.adds_one ? 1.0F + scale.at[j] : scale.at[j];
      sum += g[k].at[j];
      along += g[k].at[j] * norm;
      r[k].at[j] = norm;
    }
  }
  const float2 total = team.sum(sum, along);
  const float mean = total.x / static_cast<float>(C), share = total.y / static_cast<float>(C);
#pragma unroll
  for (int k = 0; k < kChunks; ++k) {
#pragma unroll
    for (int j = 0; j < kWidth; ++j) {
      r[k].at[j] = (g[k].at[j] - mean - r[k].at[j] * share) * m.scale;
    }
  }
}

template <class Element>
__global__ void __launch_bounds__(kMaxThreads, 1) backward_kernel(BackwardPointers<Element> p,
                                                                  ResidualNormRule<float> rule,
                                                                  float* grads,
                                                                  int warps) {
  __shared__ float scratch[2 * kMaxTeam];
  __shared__ float lines[kMaxThreads * kWidth];
  const Team team(warps, scratch);
  const int C = static_cast<int>(rule.C);
  const int64_t b = blockIdx.y;
  const int64_t step = static_cast<int64_t>(gridDim.x) * team.count();
  OfSample of;
  for (int64_t first = static_cast<int64_t>(blockIdx.x) * team.count(); first < rule.S;
       first += step) {
    const int64_t s = first + team.index();
    const bool is_there = s < rule.S;
    const int64_t row = (b * rule.S + s) * rule.C;
    Four r[kChunks] = {};
    if (p.grad_out != nullptr) {
      load_row(team, p.x + row, C, is_there, r);
      if (p.y != nullptr) {
        add_gated(team, rule, p.y + row, b, is_there, r);
        if (rule.reads_rounded) {
          round_all(p.x, r);
        }
      }
      through_norm(team, rule, p.grad_out + row, b, is_there, of, r);
    }
#pragma unroll
    for (int k = 0; k < kChunks; ++k) {
      const int c = team.channel(k);
      if (!is_there || c >= C) {
        continue;
      }
      if (p.grad_sum != nullptr) {
        const Four more = load(p.grad_sum + row + c);
#pragma unroll
        for (int j = 0; j < kWidth; ++j) {
          r[k].at[j] += more.at[j];
        }
      }
      if (p.grad_x != nullptr) {
        store(r[k], p.grad_x + row + c);
      }
      if (p.grad_y != nullptr) {
        const Four y = load(p.y + row + c), gate = of_sample(rule.gate, b, c, 1);
#pragma unroll
        for (int j = 0; j < kWidth; ++j) {
          of.gate[k].at[j] += r[k].at[j] * y.at[j];
          r[k].at[j] *= gate.at[j];
        }
        store(r[k], p.grad_y + row + c);
      }
    }
  }
  float* to = grads + (b * gridDim.x + blockIdx.x) * 3 * rule.C;
  team.add_teams(of.gate, to, C, lines);
  team.add_teams(of.scale, to + rule.C, C, lines);
  team.add_teams(of.shift, to + 2 * rule.C, C, lines);
}

dim3 grid_of(const ResidualNormRule<float>& rule) {
  return {static_cast<unsigned>(residual_norm_parts(rule.B, rule.S, rule.C)),
          static_cast<unsigned>(rule.B)};
}

template <class Device, class Element>
void launch(const ResidualNormArgs<Element, float>& a, void* stream) {
  if (a.rule.B * a.rule.S == 0) {
    return;
  }
  const TeamShape team = team_shape(a.rule.C);
  forward_kernel<Device><<<grid_of(a.rule), static_cast<unsigned>(team.threads()), 0,
                           static_cast<cudaStream_t>(stream)>>>({.x = on_device<const Device>(a.x),
                                                                 .y = on_device<const Device>(a.y),
                                                                 .sum = on_device<Device>(a.sum),
                                                                 .out = on_device<Device>(a.out)},
                                                                a.rule, team.warps);
  check_launch("residual_norm");
}

template <class Device, class Element>
void launch_backward(const ResidualNormBackwardArgs<Element, float>& a,
                     float* grads,
                     void* stream) {
  if (a.rule.B == 0) {
    return;
  }
  const TeamShape team = team_shape(a.rule.C);
  backward_kernel<Device>
      <<<grid_of(a.rule), static_cast<unsigned>(team.threads()), 0,
         static_cast<cudaStream_t>(stream)>>>({.grad_sum = on_device<const Device>(a.grad_sum),
                                               .grad_out = on_device<const Device>(a.grad_out),
                                               .x = on_device<const Device>(a.x),
                                               .y = on_device<const Device>(a.y),
                                               .grad_x = on_device<Device>(a.grad_x),
                                               .grad_y = on_device<Device>(a.grad_y)},
                                              a.rule, grads, team.warps);
  check_launch("residual_norm_backward");
}

}  // namespace

bool takes_residual_norm(int64_t C) {
  return takes_channels(C);
}

int64_t residual_norm_parts(int64_t B, int64_t S, int64_t C) {
  return row_blocks(S, B, C);
}

void residual_norm(const ResidualNormArgs<float, float>& args, void* stream) {
  launch<float>(args, stream);
}

void residual_norm(const ResidualNormArgs<Bf16, float>& args, void* stream) {
  launch<__nv_bfloat16>(args, stream);
}

void residual_norm_backward(const ResidualNormBackwardArgs<float, float>& args,
                            float* grads,
                            void* stream) {
  launch_backward<float>(args, grads, stream);
}

void residual_norm_backward(const ResidualNormBackwardArgs<Bf16, float>& args,
                            float* grads,
                            void* stream) {
  launch_backward<__nv_bfloat16>(args, grads, stream);
}

}  // namespace fastwan::kernels::cuda
