// The assignment solver of a CUDA device, on the shim: each answer must prove itself optimal, as
// those of the CPU must. Inputs, results and workspace have exactly their size: a sanitizer sees
// any access beyond them. The arguments `few` and `fewest` leave out what takes minutes.

#include <cstdio>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "check.hpp"
#include "cuda/assignment.hpp"
#include "cuda_shim/cuda_runtime.h"
#include "cuda_shim/fibers.hpp"
#include "matrices.hpp"
#include "optimality.hpp"

namespace fastrebasin::tests {
namespace {

using cuda::AssignmentStack;
using Shape = std::pair<std::int64_t, std::int64_t>;

constexpr double infinity = std::numeric_limits<double>::infinity();
bool few = false, fewest = false;  // cases, for slower sanitizers

// A batch of matrices of one size in memory, and room for what is found.
template <typename T>
class Batch {
 public:
  explicit Batch(const std::vector<Matrix>& matrices, std::int64_t padding = 0)
      : rows_(matrices[0].rows), cols_(matrices[0].cols), stride_(cols_ + padding) {
    for (const Matrix& matrix : matrices) {
      buffers_.push_back(Buffer<T>(matrix, cols_, 1));
      answers_.push_back(unwritten(rows_, cols_));
      for (std::int64_t i = 0; i < rows_; ++i)
        for (std::int64_t j = 0; j < stride_; ++j)
          costs_.push_back(j < cols_ ? T(matrix.at(i, j)) : std::numeric_limits<T>::quiet_NaN());
    }
    const auto count = static_cast<std::int64_t>(matrices.size());
    col4row_.assign(count * rows_, -99);
    row_duals_.assign(count * rows_, -99);
    col_duals_.assign(count * cols_, -99);
    gaps_.assign(count, -99);
    status_.assign(count, -99);
  }

  AssignmentStack stack(const Batch* former = nullptr) {
    return {costs_.data(),
            sizeof(T) == 8,
            static_cast<std::int64_t>(answers_.size()),
            rows_,
            cols_,
            rows_ * stride_,
            stride_,
            former ? former->col4row_.data() : nullptr,
            former ? former->col_duals_.data() : nullptr,
            col4row_.data(),
            row_duals_.data(),
            col_duals_.data(),
            gaps_.data(),
            status_.data()};
  }

  std::size_t size() const { return answers_.size(); }
  const cpu::MatrixView<T>& view(std::size_t k) const { return buffers_[k].view(); }

  Answer answer(std::size_t k) const {
    Answer found = unwritten(rows_, cols_);
    found.status = static_cast<cpu::AssignmentStatus>(status_[k]);
    found.gap = gaps_[k];
    for (std::int64_t i = 0; i < rows_; ++i) {
      found.col4row[i] = col4row_[k * rows_ + i];
      found.row_duals[i] = row_duals_[k * rows_ + i];
      const bool paired = found.col4row[i] >= 0 && found.col4row[i] < cols_;
      found.row_costs[i] = paired ? view(k).data[i * cols_ + found.col4row[i]] : 0.0;
    }
    for (std::int64_t j = 0; j < cols_; ++j) found.col_duals[j] = col_duals_[k * cols_ + j];
    return found;
  }

  friend bool operator==(const Batch& a, const Batch& b) {
    return a.col4row_ == b.col4row_ && a.row_duals_ == b.row_duals_ &&
           a.col_duals_ == b.col_duals_ && a.gaps_ == b.gaps_ && a.status_ == b.status_;
  }

 private:
  std::int64_t rows_, cols_, stride_;
  std::vector<Buffer<T>> buffers_;
  std::vector<T> costs_;
  std::vector<Answer> answers_;
  std::vector<std::int64_t> col4row_;
  std::vector<double> row_duals_, col_duals_, gaps_;
  std::vector<std::int32_t> status_;
};

void solve_stacks(const std::vector<AssignmentStack>& stacks, bool maximize) {
  std::vector<std::uint64_t> workspace(cuda::workspace_bytes(stacks) / 8, 0x5A5A5A5A5A5A5A5A);
  cuda::solve_assignments(stacks, maximize, workspace.data(), 0, nullptr);
}

template <typename T>
void check_batch(const Batch<T>& batch, bool maximize) {
  for (std::size_t k = 0; k < batch.size(); ++k)
    check_answer(batch.view(k), maximize, batch.answer(k));
}

Matrix matrix_of(Structure structure, const Shape& shape, bool maximize, int seed = 0) {
  Random random(shape.first * 1009 + shape.second + seed);
  return make(structure, shape.first, shape.second, random, maximize ? -infinity : infinity);
}

// Every structure both ways; of few cases one way each, in turn.
template <typename Visit>
void for_each_structure(const char* sweep, const Shape& shape, Visit visit) {
  static int turn = 0;
  for (const Structure structure : structures)
    for (const bool maximize : {false, true}) {
      if (few && (int(structure) + turn) % 2 == int(maximize)) continue;
      current_case = std::string(sweep) + ", structure " + std::to_string(int(structure)) + ", " +
                     std::to_string(shape.first) + " x " + std::to_string(shape.second) +
                     (maximize ? ", maximise" : "");
      visit(structure, maximize);
    }
  ++turn;
}

// Around the tails of teams, of warps and of lists.
template <typename T>
void test_shapes() {
  std::vector<Shape> shapes = {{1, 1}, {1, 9}, {2, 2}, {5, 65}, {13, 17}, {33, 33}, {64, 65}};
  if (!few) shapes.insert(shapes.end(), {{8, 8}, {31, 31}, {64, 64}, {70, 100}, {129, 129}});
  for (const Shape& shape : shapes)
    for_each_structure("shapes", shape, [&](Structure structure, bool maximize) {
      Batch<T> batch({matrix_of(structure, shape, maximize)}, shape.first % 3);
      solve_stacks({batch.stack()}, maximize);
      check_batch(batch, maximize);
    });
}

// Many problems at once, each as if alone; and the order of threads changes nothing.
void test_batches() {
  std::uint64_t seed = 1;
  for_each_structure("batches", {33, 33}, [&](Structure structure, bool maximize) {
    std::vector<Shape> shapes = {{33, 33}, {17, 30}};
    if (!few) shapes.push_back({65, 65});
    std::vector<Batch<float>> alone, together;
    std::vector<AssignmentStack> stacks;
    for (const Shape& shape : shapes) {
      std::vector<Matrix> matrices;
      for (int k = 0; k < 2; ++k) matrices.push_back(matrix_of(structure, shape, maximize, k));
      alone.emplace_back(matrices);
      together.emplace_back(matrices);
    }
    for (Batch<float>& batch : together) stacks.push_back(batch.stack());
    cuda_shim::set_seed(seed++);
    solve_stacks(stacks, maximize);
    for (std::size_t k = 0; k < alone.size(); ++k) {
      cuda_shim::set_seed(seed++);
      solve_stacks({alone[k].stack()}, maximize);
      check_batch(alone[k], maximize);
      CHECK(alone[k] == together[k]);
    }
  });
}

// From the result of a similar problem, of another one, and of none.
void test_warm_starts() {
  for (const Shape& shape : {Shape{40, 40}, Shape{20, 33}}) {
    if (fewest && shape.first < shape.second) continue;
    for_each_structure("warm", shape, [&](Structure structure, bool maximize) {
      Matrix matrix = matrix_of(structure, shape, maximize);
      Batch<float> former({matrix});
      solve_stacks({former.stack()}, maximize);
      Random random(7);
      for (double& entry : matrix.entries) entry += 1e-2 * uniform(random);
      Batch<float> next({matrix}), other({matrix_of(Structure::uniform, shape, maximize)});
      solve_stacks({next.stack(&former)}, maximize);
      check_batch(next, maximize);
      solve_stacks({former.stack(&next)}, maximize);  // what was dead had drifted apart
      check_batch(former, maximize);
      solve_stacks({other.stack(&next)}, maximize);
      check_batch(other, maximize);
    });
  }
}

template <typename T>
void test_scales() {
  for (const double scale : {1e-42, 1e-30, 1e30})
    for_each_structure("scales", {40, 41}, [&](Structure structure, bool maximize) {
      Matrix matrix = matrix_of(structure, {40, 41}, maximize);
      for (double& entry : matrix.entries) entry *= scale;
      Batch<T> batch({matrix});
      solve_stacks({batch.stack()}, maximize);
      check_batch(batch, maximize);
    });
}

void test_invalid_entries() {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  for (const bool maximize : {false, true})
    for (const double entry : {nan, maximize ? infinity : -infinity}) {
      current_case = "invalid entries";
      std::vector<Matrix> matrices(3, matrix_of(Structure::uniform, {20, 20}, maximize));
      matrices[1].at(19, 7) = entry;
      Batch<float> batch(matrices);
      solve_stacks({batch.stack()}, maximize);
      CHECK(batch.answer(1).status == cpu::AssignmentStatus::invalid_entry);
      check_answer(batch.view(0), maximize, batch.answer(0));
      check_answer(batch.view(2), maximize, batch.answer(2));
    }
}

// Of several hundred rows: lists tell no more, and several warps search.
void test_large() {
  for_each_structure("large", {260, 300}, [&](Structure structure, bool maximize) {
    const Shape shape = maximize ? Shape{260, 260} : Shape{240, 300};
    Batch<float> batch({matrix_of(structure, shape, maximize)});
    solve_stacks({batch.stack()}, maximize);
    check_batch(batch, maximize);
  });
}

// Where shared memory has room for a part of what a block works on, or for nearly nothing.
template <typename T>
void test_little_shared_memory() {
  for (const int bytes : {5 * 1024, 10 * 1024}) {
    if (few && bytes > 5 * 1024) continue;
    cuda_shim::set_shared_memory(bytes);
    for_each_structure("little shared memory", {40, 100}, [&](Structure structure, bool maximize) {
      const Shape shape = maximize ? Shape{100, 100} : Shape{40, 100};
      Batch<T> batch({matrix_of(structure, shape, maximize)});
      solve_stacks({batch.stack()}, maximize);
      check_batch(batch, maximize);
    });
    cuda_shim::set_shared_memory(cuda_shim::most_shared_bytes);
  }
}

void test_all() {
  test_warm_starts();  // and cold ones before them
  test_invalid_entries();
  if (fewest) return;
  test_shapes<float>();
  test_batches();
  test_little_shared_memory<float>();
  if (few) return;
  test_little_shared_memory<double>();
  test_shapes<double>();
  test_scales<float>();
  test_scales<double>();
  test_large();
}

}  // namespace
}  // namespace fastrebasin::tests

int main(int count, char** arguments) {
  using namespace fastrebasin::tests;
  fewest = count > 1 && std::string(arguments[1]) == "fewest";
  few = fewest || (count > 1 && std::string(arguments[1]) == "few");
  test_all();
  std::puts("all device assignments hold");
}
