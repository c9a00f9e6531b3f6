// The BLAS routines that our own code calls: the single-precision matrix product, and the one of bf16 operands. It comes with LibTorch (MKL in the
// wheel) under the name that every BLAS library has used since 1990. Matrix products on tensors go through ATen instead;
// this is for blocks inside of a kernel, where a dispatch costs as much as the product.
#pragma once

#include <cstdint>

extern "C" void sgemm_(const char* trans_a, const char* trans_b, const int* m, const int* n, const int* k,
                       const float* alpha, const float* a, const int* lda, const float* b, const int* ldb,
                       const float* beta, float* c, const int* ldc);

// MKL's own; another BLAS library has none, and the address is null.
extern "C" void gemm_bf16bf16f32_(const char* trans_a, const char* trans_b, const int* m, const int* n, const int* k,
                                  const float* alpha, const std::uint16_t* a, const int* lda, const std::uint16_t* b,
                                  const int* ldb, const float* beta, float* c, const int* ldc) __attribute__((weak));

namespace starling::trainer {

enum class Transpose { no, yes };

// A matrix inside of a larger one, row by row; `stride` is the distance of two rows, in floats.
struct MatrixView {
  const float* data;
  std::int64_t stride;
};

// out [m, n] = alpha * a [m, k] * b [k, n] + beta * out; a transposed operand is stored as [k, m] or [n, k].
// REQUIRES: all sizes and strides fit an int.
inline void sgemm(Transpose a_is, Transpose b_is, std::int64_t m, std::int64_t n, std::int64_t k, float alpha,
                  MatrixView a, MatrixView b, float beta, float* out, std::int64_t out_stride) {
  // BLAS counts by columns: it sees every matrix transposed, so it is asked for out^T = b^T a^T.
  const int rows = static_cast<int>(n);
  const int columns = static_cast<int>(m);
  const int inner = static_cast<int>(k);
  const int lda = static_cast<int>(b.stride);
  const int ldb = static_cast<int>(a.stride);
  const int ldc = static_cast<int>(out_stride);
  sgemm_(b_is == Transpose::yes ? "T" : "N", a_is == Transpose::yes ? "T" : "N", &rows, &columns, &inner, &alpha,
         b.data, &lda, a.data, &ldb, &beta, out, &ldc);
}

// A matrix of bf16 bit patterns.
struct Bf16View {
  const std::uint16_t* data;
  std::int64_t stride;
};

// The same of bf16 operands, with sums and `out` in fp32. False: this BLAS library cannot, nothing happened.
inline bool bf16_gemm(Transpose a_is, Transpose b_is, std::int64_t m, std::int64_t n, std::int64_t k, float alpha,
                      Bf16View a, Bf16View b, float beta, float* out, std::int64_t out_stride) {
  if (gemm_bf16bf16f32_ == nullptr) return false;
  const int rows = static_cast<int>(n);
  const int columns = static_cast<int>(m);
  const int inner = static_cast<int>(k);
  const int lda = static_cast<int>(b.stride);
  const int ldb = static_cast<int>(a.stride);
  const int ldc = static_cast<int>(out_stride);
  gemm_bf16bf16f32_(b_is == Transpose::yes ? "T" : "N", a_is == Transpose::yes ? "T" : "N", &rows, &columns, &inner,
                    &alpha, b.data, &lda, a.data, &ldb, &beta, out, &ldc);
  return true;
}

}  // namespace starling::trainer
