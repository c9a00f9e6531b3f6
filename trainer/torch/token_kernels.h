// What generation needs beside kernels.h: one token at a time is matrix times vector, and one query against the cache.
//
// Such products read every weight once and use it once, so they are as fast as memory is. Four rows go together, a quarter
// of the matrix apart: they are four streams of memory, which a processor fetches ahead side by side (one stream, as of
// rows that follow each other, gets two thirds of that), and the vector is read once for all four. Each row has lanes of its
// own and no row depends on another: however rows are dealt out to threads, the numbers are the same.
#pragma once

#include <cstdint>

namespace starling::trainer::kernels {

enum class Into { replace, add };

// out[r] = (or +=) the sum of matrix[r * stride + i] * x[i] over i < width, for each r < rows.
void matrix_vector(const float* matrix, std::int64_t stride, const float* x, std::int64_t rows, std::int64_t width,
                   Into into, float* out);

// x = exp(scale * (x - its maximum)), in place; returns the sum. REQUIRES: count > 0, scale > 0.
float scaled_exponentials(float* x, std::int64_t count, float scale);

// x *= factor.
void scale(float* x, std::int64_t count, float factor);

}  // namespace starling::trainer::kernels
