#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "cuda/stream.hpp"

namespace fastrebasin::cuda {

// Rows of one problem on the device: bids are told apart by 16 bits.
constexpr std::int64_t most_rows = 65535;

// Assignment problems of one size on the device; rows <= cols, and rows <= most_rows. Entries of a
// row lie side by side; strides count elements.
struct AssignmentStack {
  const void* costs;  // (batch, rows, cols)
  bool is_double;     // float64, else float32
  std::int64_t batch, rows, cols;
  std::int64_t batch_stride, row_stride;
  // Former results of similar problems, to start from; null for none.
  const std::int64_t* warm_col4row;  // (batch, rows)
  const double* warm_col_duals;      // (batch, cols)
  // What is found.
  std::int64_t* col4row;  // (batch, rows)
  double* row_duals;      // (batch, rows)
  double* col_duals;      // (batch, cols)
  double* gap;            // (batch)
  std::int32_t* status;   // (batch), of cpu::AssignmentStatus; if not 0 the rest means nothing
};

// Bytes of device memory that solve_assignments needs for itself.
std::size_t workspace_bytes(const std::vector<AssignmentStack>& stacks);

// Solves all problems exactly, on their device. Nothing waits for it, and all work is on the
// stream: it can be captured in a graph.
//
// What is found means what cpu::solve_assignment says of it. It is the same, bit for bit, on every
// call, and whatever other problems are solved beside it. Meant for many problems, or for few of
// hundreds of rows and more: a problem has one multiprocessor to itself, and the passes over its
// matrix have all.
//
// Throws std::runtime_error for what CUDA refuses.
void solve_assignments(const std::vector<AssignmentStack>& stacks, bool maximize, void* workspace,
                       int device, Stream stream);

}  // namespace fastrebasin::cuda
