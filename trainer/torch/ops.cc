#include "trainer/torch/ops.h"

#include <ATen/Functions.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <numeric>
#include <vector>

#include "gossip/base/error.h"
#include "trainer/torch/blas.h"
#include "trainer/torch/library_ops.h"

namespace starling::trainer::ops {
namespace {

// Rows of a piece of work: some ten microseconds of it.
constexpr std::int64_t piece_rows = 128;

// Whether our own kernels run.
bool ours(const at::Tensor& x) { return x.is_cpu() && x.scalar_type() == at::kFloat; }

float* floats(const at::Tensor& tensor) {
  STARLING_CHECK(tensor.is_cpu() && tensor.scalar_type() == at::kFloat && tensor.is_contiguous(),
                 "the kernels know contiguous fp32 tensors in main memory only");
  return tensor.mutable_data_ptr<float>();
}

std::int64_t pieces_of(std::int64_t rows) { return (rows + piece_rows - 1) / piece_rows; }

// Source: transformers' _compute_llama3_parameters, in fp32 as there.
float scaled(float frequency, const RopeScaling& scaling) {
  const auto original = static_cast<double>(scaling.original_max_position_embeddings);
  const float wavelength = static_cast<float>(2.0 * std::numbers::pi) / frequency;
  const float slowed = frequency / static_cast<float>(scaling.factor);
  if (wavelength > static_cast<float>(original / scaling.low_freq_factor)) return slowed;
  if (wavelength < static_cast<float>(original / scaling.high_freq_factor)) return frequency;
  const float kept = (static_cast<float>(original) / wavelength - static_cast<float>(scaling.low_freq_factor)) /
                     static_cast<float>(scaling.high_freq_factor - scaling.low_freq_factor);
  return (1.0F - kept) * slowed + kept * frequency;
}

// f(piece, first row, number of rows); pieces may run side by side.
template <typename F>
void for_pieces(std::int64_t rows, const F& f) {
  at::parallel_for(0, pieces_of(rows), 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t piece = begin; piece < end; ++piece) {
      const std::int64_t first = piece * piece_rows;
      f(piece, first, std::min(piece_rows, rows - first));
    }
  });
}

// A document, or a sequence: rows that see each other.
struct Document {
  std::int64_t first = 0;
  std::int64_t count = 0;
};
std::vector<Document> documents_of(std::int64_t rows, std::int64_t tokens, Borders borders) {
  std::vector<Document> out;
  for (std::int64_t first = 0; first < rows;) {
    while (!borders.empty() && borders.front() <= first) borders = borders.subspan(1);
    std::int64_t end = (first / tokens + 1) * tokens;
    if (!borders.empty()) end = std::min<std::int64_t>(end, borders.front());
    out.push_back({first, end - first});
    first = end;
  }
  return out;
}

kernels::Attention shape_of(const Document& document, const kernels::Attention& shape) {
  kernels::Attention out = shape;
  out.tokens = document.count;
  return out;
}

// f(document, its shape, key head, scratch); all may run side by side.
template <typename F>
void for_key_heads(const std::vector<Document>& documents, const kernels::Attention& shape, const at::Tensor& like,
                   const F& f) {
  const std::int64_t scratch_floats = kernels::attention_scratch(shape);
  const auto pieces = static_cast<std::int64_t>(documents.size()) * shape.kv_heads;
  at::parallel_for(0, pieces, 1, [&](std::int64_t begin, std::int64_t end) {
    const at::Tensor scratch = at::empty({scratch_floats}, like.options());
    for (std::int64_t i = begin; i < end; ++i) {
      const Document& document = documents[static_cast<std::size_t>(i / shape.kv_heads)];
      f(document, shape_of(document, shape), i % shape.kv_heads, floats(scratch));
    }
  });
}

// bf16 operands of a product on a CPU.
bool mixed(const at::Tensor& operand) { return operand.is_cpu() && operand.scalar_type() == at::kBFloat16; }

const std::uint16_t* bits(const at::Tensor& x) {
  return reinterpret_cast<const std::uint16_t*>(x.const_data_ptr<at::BFloat16>());
}
kernels::Bf16* rounded(const at::Tensor& x) {
  STARLING_CHECK(mixed(x) && x.is_contiguous(), "the kernels know contiguous tensors in main memory only");
  return reinterpret_cast<kernels::Bf16*>(x.mutable_data_ptr<at::BFloat16>());
}

// f(values of `x`), as float* or Bf16*.
template <typename F>
void in_type(const at::Tensor& x, const F& f) {
  if (mixed(x)) {
    f(rounded(x));
  } else {
    f(floats(x));
  }
}

// Where what takes the place of `x` is made: there, or in a tensor of its own when it has another type.
at::Tensor in_place_of(const at::Tensor& x, at::ScalarType products) {
  return products == at::kFloat ? x : at::empty(x.sizes(), x.options().dtype(products));
}

enum class Operand { as_is, transposed };

// out [m, n] fp32 = factor a b + beta out.
void mixed_product(at::Tensor& out, const at::Tensor& a, Operand a_is, const at::Tensor& b, Operand b_is, float factor,
                   float beta) {
  const bool done = bf16_gemm(a_is == Operand::transposed ? Transpose::yes : Transpose::no,
                              b_is == Operand::transposed ? Transpose::yes : Transpose::no, out.size(0), out.size(1),
                              a_is == Operand::transposed ? a.size(0) : a.size(1), factor, {bits(a), a.stride(0)},
                              {bits(b), b.stride(0)}, beta, floats(out), out.stride(0));
  if (done) return;
  const at::Tensor made = at::mm(a_is == Operand::transposed ? a.t() : a, b_is == Operand::transposed ? b.t() : b);
  if (beta == 0.0F) out.zero_();  // it may hold anything
  out.mul_(beta).add_(made, factor);
}

}  // namespace

at::Tensor operand(const at::Tensor& x, at::ScalarType products) {
  if (!ours(x) || products == at::kFloat) return x.to(products);
  at::Tensor out = at::empty(x.sizes(), x.options().dtype(products));
  const float* const from = floats(x);
  kernels::Bf16* const to = rounded(out);
  const std::int64_t width = x.size(1);
  for_pieces(x.size(0), [&](std::int64_t, std::int64_t first, std::int64_t count) {
    kernels::round(from + first * width, count * width, to + first * width);
  });
  return out;
}

at::Tensor product(const at::Tensor& x, const at::Tensor& weight) {
  if (!mixed(x)) return at::mm(x, weight.t());
  at::Tensor out = at::empty({x.size(0), weight.size(0)}, x.options().dtype(at::kFloat));
  mixed_product(out, x, Operand::as_is, weight, Operand::transposed, 1.0F, 0.0F);
  return out;
}

at::Tensor sum_and_product(const at::Tensor& y, const at::Tensor& x, const at::Tensor& weight) {
  if (!mixed(x)) return at::addmm(y, x, weight.t());
  at::Tensor out = y.clone();
  mixed_product(out, x, Operand::as_is, weight, Operand::transposed, 1.0F, 1.0F);
  return out;
}

void product_into(at::Tensor& out, const at::Tensor& x, const at::Tensor& weight) {
  if (!mixed(x)) {
    at::mm_out(out, x, weight.t());
  } else {
    mixed_product(out, x, Operand::as_is, weight, Operand::transposed, 1.0F, 0.0F);
  }
}

at::Tensor input_gradient(const at::Tensor& dy, const at::Tensor& weight) {
  at::Tensor out = at::empty({dy.size(0), weight.size(1)}, mixed(dy) ? dy.options().dtype(at::kFloat) : dy.options());
  input_gradient_into(out, dy, weight);
  return out;
}

void input_gradient_into(at::Tensor& out, const at::Tensor& dy, const at::Tensor& weight) {
  if (!mixed(dy)) {
    at::mm_out(out, dy, weight);
  } else {
    mixed_product(out, dy, Operand::as_is, weight, Operand::as_is, 1.0F, 0.0F);
  }
}

void weight_gradient(at::Tensor& dweight, const at::Tensor& dy, const at::Tensor& x, double factor) {
  if (mixed(x)) {
    mixed_product(dweight, dy, Operand::transposed, x, Operand::as_is, static_cast<float>(factor), 1.0F);
  } else if (x.scalar_type() == dweight.scalar_type()) {
    dweight.addmm_(dy.t(), x, 1.0, factor);
  } else {
    dweight.add_(at::mm(dy.t(), x), factor);
  }
}

Normed rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps, at::ScalarType products) {
  if (!ours(x)) return library::rms_norm(x, weight, eps);
  const std::int64_t rows = x.size(0);
  const std::int64_t width = x.size(1);
  Normed out{at::empty({rows, width}, x.options().dtype(products)), at::empty({rows}, x.options())};
  const float* const from = floats(x);
  const float* const w = floats(weight);
  float* const rstd = floats(out.rstd);
  in_type(out.y, [&](auto* y) {
    for_pieces(rows, [&](std::int64_t, std::int64_t first, std::int64_t count) {
      kernels::rms_norm(from + first * width, w, count, width, static_cast<float>(eps), y + first * width,
                        rstd + first);
    });
  });
  return out;
}

void rms_norm_backward(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& rstd, at::Tensor& dy_y,
                       at::Tensor& dx, at::Tensor& dweight, at::ScalarType products) {
  if (!ours(x)) return library::rms_norm_backward(x, weight, rstd, dy_y, dx, dweight);
  const std::int64_t rows = x.size(0);
  const std::int64_t width = x.size(1);
  const at::Tensor parts = at::zeros({pieces_of(rows), width}, x.options());
  at::Tensor again = in_place_of(dy_y, products);
  const float* const from = floats(x);
  const float* const w = floats(weight);
  const float* const r = floats(rstd);
  const float* const dy = floats(dy_y);
  float* const to = floats(dx);
  float* const part = floats(parts);
  in_type(again, [&](auto* y) {
    for_pieces(rows, [&](std::int64_t piece, std::int64_t first, std::int64_t count) {
      kernels::rms_norm_backward(from + first * width, w, r + first, count, width, dy + first * width,
                                 y + first * width, to + first * width, part + piece * width);
    });
  });
  dy_y = std::move(again);
  float* const dw = floats(dweight);
  for (std::int64_t i = 0; i < pieces_of(rows) * width; ++i) dw[i % width] += part[i];
}

RotaryTable rotary_table(std::int64_t positions, std::int64_t head_dim, double theta,
                         const std::optional<RopeScaling>& scaling) {
  const std::int64_t half = head_dim / 2;
  RotaryTable table{at::empty({positions, half}, at::kFloat), at::empty({positions, half}, at::kFloat)};
  float* const cosine = floats(table.cosine);
  float* const sine = floats(table.sine);
  for (std::int64_t i = 0; i < half; ++i) {
    // Rounded to fp32 where transformers' LlamaRotaryEmbedding rounds: far positions then agree with it.
    const auto exponent = static_cast<float>(2 * i) / static_cast<float>(head_dim);
    float frequency = 1.0F / std::pow(static_cast<float>(theta), exponent);
    if (scaling) frequency = scaled(frequency, *scaling);
    for (std::int64_t position = 0; position < positions; ++position) {
      const float angle = static_cast<float>(position) * frequency;
      cosine[position * half + i] = static_cast<float>(std::cos(static_cast<double>(angle)));
      sine[position * half + i] = static_cast<float>(std::sin(static_cast<double>(angle)));
    }
  }
  return table;
}

void rotate(at::Tensor& qkv, const kernels::Attention& shape, const RotaryTable& table, kernels::Rotation rotation) {
  if (!ours(qkv)) return library::rotate(qkv, shape, table, rotation);
  float* const x = floats(qkv);
  const kernels::Rotary rotary{.width = qkv.size(1),
                               .heads = shape.heads + shape.kv_heads,
                               .head_dim = shape.head_dim,
                               .positions = shape.tokens,
                               .cosine = floats(table.cosine),
                               .sine = floats(table.sine)};
  for_pieces(qkv.size(0), [&](std::int64_t, std::int64_t first, std::int64_t count) {
    kernels::rotate(x, first, count, rotary, rotation);
  });
}

Attended attention(const at::Tensor& qkv, const kernels::Attention& shape, Borders borders) {
  if (!ours(qkv) && borders.empty()) return library::attention(qkv, shape);
  const std::vector<Document> documents = documents_of(qkv.size(0), shape.tokens, borders);
  if (!ours(qkv)) {
    Attended result;
    std::vector<at::Tensor> outs;
    for (const Document& document : documents) {
      result.parts.push_back(
          library::attention(qkv.narrow(0, document.first, document.count), shape_of(document, shape)));
      outs.push_back(result.parts.back().out);
    }
    result.out = at::cat(outs);
    return result;
  }
  const std::int64_t sequences = qkv.size(0) / shape.tokens;
  Attended result{at::empty({qkv.size(0), shape.out_width()}, qkv.options()),
                  at::empty({sequences, shape.heads, shape.tokens}, qkv.options()), {}, {}, {}};
  const float* const from = floats(qkv);
  float* const out = floats(result.out);
  float* const log_sum = floats(result.log_sum);
  for_key_heads(documents, shape, qkv,
                [&](const Document& document, const kernels::Attention& its, std::int64_t kv_head, float* scratch) {
                  kernels::attention(its, kv_head, from + document.first * shape.qkv_width(),
                                     out + document.first * shape.out_width(), log_sum + document.first * shape.heads,
                                     scratch);
                });
  return result;
}

at::Tensor attention_backward(const at::Tensor& qkv, const Attended& forward, const at::Tensor& dout,
                              const kernels::Attention& shape, Borders borders) {
  if (!ours(qkv) && borders.empty()) return library::attention_backward(qkv, forward, dout, shape);
  const std::vector<Document> documents = documents_of(qkv.size(0), shape.tokens, borders);
  if (!ours(qkv)) {
    std::vector<at::Tensor> parts;
    for (std::size_t i = 0; i < documents.size(); ++i) {
      const auto& [first, count] = documents[i];
      parts.push_back(library::attention_backward(qkv.narrow(0, first, count), forward.parts[i],
                                                  dout.narrow(0, first, count), shape_of(documents[i], shape)));
    }
    return at::cat(parts);
  }
  at::Tensor result = at::empty_like(qkv);
  const float* const from = floats(qkv);
  const float* const out = floats(forward.out);
  const float* const log_sum = floats(forward.log_sum);
  const float* const d_out = floats(dout);
  float* const to = floats(result);
  for_key_heads(documents, shape, qkv,
                [&](const Document& document, const kernels::Attention& its, std::int64_t kv_head, float* scratch) {
                  const std::int64_t in_first = document.first * shape.qkv_width();
                  const std::int64_t out_first = document.first * shape.out_width();
                  kernels::attention_backward(its, kv_head, from + in_first, out + out_first,
                                              log_sum + document.first * shape.heads, d_out + out_first, to + in_first,
                                              scratch);
                });
  return result;
}

at::Tensor swiglu(const at::Tensor& gate_up, at::ScalarType products) {
  if (!ours(gate_up)) return library::swiglu(gate_up);
  const std::int64_t inner = gate_up.size(1) / 2;
  at::Tensor result = at::empty({gate_up.size(0), inner}, gate_up.options().dtype(products));
  const float* const from = floats(gate_up);
  in_type(result, [&](auto* out) {
    for_pieces(gate_up.size(0), [&](std::int64_t, std::int64_t first, std::int64_t count) {
      kernels::swiglu(from + first * 2 * inner, count, inner, out + first * inner);
    });
  });
  return result;
}

at::Tensor swiglu_backward(const at::Tensor& gate_up, at::Tensor& dout_out, at::ScalarType products) {
  if (!ours(gate_up)) return library::swiglu_backward(gate_up, dout_out);
  const std::int64_t inner = gate_up.size(1) / 2;
  at::Tensor result = at::empty(gate_up.sizes(), gate_up.options().dtype(products));
  at::Tensor again = in_place_of(dout_out, products);
  const float* const from = floats(gate_up);
  const float* const dout = floats(dout_out);
  in_type(result, [&](auto* to) {
    auto* const out = static_cast<decltype(to)>(again.mutable_data_ptr());
    for_pieces(gate_up.size(0), [&](std::int64_t, std::int64_t first, std::int64_t count) {
      kernels::swiglu_backward(from + first * 2 * inner, count, inner, dout + first * inner, out + first * inner,
                               to + first * 2 * inner);
    });
  });
  dout_out = std::move(again);
  return result;
}

at::Tensor embed(const at::Tensor& weight, std::span<const std::int32_t> ids, at::ScalarType type) {
  if (!ours(weight) || type != at::kFloat) return library::embed(weight, ids, type);
  const auto rows = static_cast<std::int64_t>(ids.size());
  at::Tensor out = at::empty({rows, weight.size(1)}, weight.options());
  kernels::embed(floats(weight), ids.data(), rows, weight.size(1), floats(out));
  return out;
}

void embed_backward(const at::Tensor& dout, std::span<const std::int32_t> ids, at::Tensor& dweight) {
  if (!ours(dout)) return library::embed_backward(dout, ids, dweight);
  kernels::embed_backward(floats(dout), ids.data(), dout.size(0), dout.size(1), floats(dweight));
}

double cross_entropy(at::Tensor& logits, std::span<const std::int32_t> targets, Gradient gradient,
                     at::ScalarType products) {
  if (!ours(logits)) return library::cross_entropy(logits, targets, gradient);
  const std::int64_t rows = logits.size(0);
  const std::int64_t vocab = logits.size(1);
  float* const from = floats(logits);
  std::vector<double> sums(static_cast<std::size_t>(pieces_of(rows)));
  const auto sum_of = [&](const auto& loss_of) {
    for_pieces(rows, [&](std::int64_t piece, std::int64_t first, std::int64_t count) {
      sums[static_cast<std::size_t>(piece)] = loss_of(first, targets.data() + first, count);
    });
    return std::accumulate(sums.begin(), sums.end(), 0.0);
  };
  if (gradient == Gradient::none) {
    return sum_of([&](std::int64_t first, const std::int32_t* wanted, std::int64_t count) {
      return kernels::cross_entropy_loss(from + first * vocab, wanted, count, vocab);
    });
  }
  at::Tensor result = in_place_of(logits, products);
  double sum = 0.0;
  in_type(result, [&](auto* to) {
    sum = sum_of([&](std::int64_t first, const std::int32_t* wanted, std::int64_t count) {
      return kernels::cross_entropy(from + first * vocab, wanted, count, vocab, to + first * vocab);
    });
  });
  logits = std::move(result);
  return sum;
}

}  // namespace starling::trainer::ops
