// Solves in several threads at once, for the thread sanitizer: the solver keeps nothing between
// calls and only reads its input; the threads of a batch change nothing in its results.

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <string>
#include <thread>
#include <vector>

#include "check.hpp"
#include "cpu/assignment_batch.hpp"
#include "cpu/parallel.hpp"
#include "matrices.hpp"
#include "optimality.hpp"

namespace fastrebasin::tests {
namespace {

constexpr int thread_count = 3;

template <typename Work>
void in_threads(Work work) {
  std::vector<std::thread> threads;
  for (int k = 0; k < thread_count; ++k) threads.emplace_back(work, k);
  for (std::thread& thread : threads) thread.join();
}

bool same(const Answer& a, const Answer& b) {
  if (a.status != b.status) return false;
  if (a.status != cpu::AssignmentStatus::optimal) return true;  // the rest is unspecified
  return a.col4row == b.col4row && a.row_costs == b.row_costs && a.row_duals == b.row_duals &&
         a.col_duals == b.col_duals && a.gap == b.gap;
}

// The very first calls: whatever is set up on first use is set up by several threads.
template <typename T>
void test_first_calls() {
  Random random(0);
  const Buffer<T> buffer = contiguous<T>(make(Structure::uniform, 20, 20, random, 0.0));
  in_threads([&](int) {
    current_case = "first calls";
    check_answer(buffer.view(), false, solve(buffer.view(), false));
  });
}

// One matrix and one warm start, read by all threads: all find what one finds alone, bit for bit.
template <typename T>
void test_shared_input() {
  for (const std::int64_t n : {30, 321})
    for (const Structure structure : structures) {
      if (n > 300 && int(structure) % 3 != 0) continue;  // some will do: the sanitizer is slow
      Random random(n);
      const double forbidden = std::numeric_limits<double>::infinity();
      const Buffer<T> buffer = contiguous<T>(make(structure, n, n, random, forbidden));
      const cpu::MatrixView<T> cost = buffer.view(), turned = cost.transposed();
      const Answer cold = solve(cost, false), across = solve(turned, false);
      const bool can_start = cold.status == cpu::AssignmentStatus::optimal;
      const Answer* start = can_start ? &cold : nullptr;
      const Answer warm = solve(cost, false, start);
      in_threads([&](int k) {
        current_case = "shared input, structure " + std::to_string(int(structure)) + ", n " +
                       std::to_string(n) + ", thread " + std::to_string(k);
        CHECK(same(solve(cost, false), cold));
        CHECK(same(solve(cost, false, start), warm));
        CHECK(same(solve(turned, false), across));
      });
    }
}

// Results of one array, a part for each thread: no thread writes outside its part.
void test_neighbouring_results() {
  constexpr std::int64_t n = 33;
  current_case = "neighbouring results";
  Random random(1);
  const Buffer<float> buffer = contiguous<float>(make(Structure::dead_units, n, n, random, 0.0));
  std::vector<std::int64_t> col4row(thread_count * n);
  std::vector<double> values(3 * thread_count * n), gap(thread_count);
  in_threads([&](int k) {
    double* mine = &values[3 * k * n];
    cpu::solve_assignment<float>(buffer.view(), true, {nullptr, nullptr},
                                 {&col4row[k * n], mine, mine + n, mine + 2 * n, &gap[k]}, never);
  });
  for (int k = 1; k < thread_count; ++k)
    CHECK(std::equal(col4row.begin(), col4row.begin() + n, col4row.begin() + k * n));
}

struct Batch {
  cpu::BatchOutcome outcome;
  std::vector<Answer> answers;
};

Batch solve_batch(const std::vector<Buffer<float>>& matrices, int threads,
                  const cpu::Poll& interrupted = never) {
  Batch batch;
  for (const Buffer<float>& matrix : matrices)
    batch.answers.push_back(unwritten(matrix.view().rows, matrix.view().cols));
  std::vector<cpu::AssignmentTask> tasks;
  for (std::size_t k = 0; k < matrices.size(); ++k)
    tasks.push_back({matrices[k].view(), {nullptr, nullptr}, result_in(batch.answers[k])});
  batch.outcome = cpu::solve_assignments(tasks, false, threads, interrupted);
  for (Answer& answer : batch.answers) answer.status = batch.outcome.status;
  return batch;
}

// Matrices of several sizes; the largest has a pass that is worth several threads of its own.
std::vector<Buffer<float>> batch_of(int count) {
  std::vector<Buffer<float>> matrices;
  Random random(count);
  for (int k = 0; k < count; ++k) {
    const std::int64_t n = k == 1 ? 520 : 40 + 17 * k;
    matrices.push_back(contiguous<float>(make(Structure::dead_units, n, n, random, 0.0)));
  }
  return matrices;
}

// Every size of batch beside the number of threads: each answer is the one of a single thread.
void test_batches() {
  for (int count = 0; count <= 2 * thread_count; ++count) {
    current_case = "batch of " + std::to_string(count);
    const std::vector<Buffer<float>> matrices = batch_of(count);
    const Batch alone = solve_batch(matrices, 1);
    CHECK(alone.outcome.status == cpu::AssignmentStatus::optimal);
    for (const int threads : {2, thread_count, 4 * thread_count}) {
      const Batch together = solve_batch(matrices, threads);
      CHECK(std::equal(alone.answers.begin(), alone.answers.end(), together.answers.begin(),
                       together.answers.end(), same));
    }
  }
}

// The first matrix without a solution is named, however the threads come to them.
void test_batches_that_fail() {
  Matrix infeasible(50, 50), invalid(60, 60);
  infeasible.fill([](auto...) { return std::numeric_limits<double>::infinity(); });
  invalid.fill([](auto...) { return std::numeric_limits<double>::quiet_NaN(); });
  std::vector<Buffer<float>> matrices = batch_of(2 * thread_count);
  matrices[3] = contiguous<float>(infeasible);
  matrices[5] = contiguous<float>(invalid);
  for (int repeat = 0; repeat < 10; ++repeat) {
    current_case = "batch that fails, " + std::to_string(repeat);
    const cpu::BatchOutcome outcome = solve_batch(matrices, thread_count).outcome;
    CHECK(outcome.status == cpu::AssignmentStatus::infeasible);
    CHECK(outcome.failed == 3);
  }
}

// An interrupt stops the threads of a batch, and only that batch.
void test_batches_at_once() {
  const std::vector<Buffer<float>> matrices = batch_of(2 * thread_count);
  const Batch alone = solve_batch(matrices, 1);
  in_threads([&](int k) {
    current_case = "batches at once, " + std::to_string(k);
    const Batch mine = solve_batch(matrices, 2, [k] { return k == 0; });
    if (k == 0) {
      CHECK(mine.outcome.status == cpu::AssignmentStatus::interrupted);
    } else {
      CHECK(std::equal(alone.answers.begin(), alone.answers.end(), mine.answers.begin(), same));
    }
  });
}

// More helpers than cores, for loops that are over before most of them come: each index is begun
// once, and who comes late touches nothing of a loop that has returned.
void test_late_helpers() {
  constexpr std::int64_t count = 40;
  for (int repeat = 0; repeat < 500; ++repeat) {
    current_case = "late helpers, " + std::to_string(repeat);
    std::vector<int> begun(count, 0);
    const bool all =
        cpu::parallel_for(count, 8, never, [&](std::int64_t k, const cpu::Poll&) { ++begun[k]; });
    CHECK(all);
    CHECK(begun == std::vector<int>(count, 1));
  }
}

}  // namespace
}  // namespace fastrebasin::tests

int main() {
  using namespace fastrebasin::tests;
  test_first_calls<float>();
  test_shared_input<float>();
  test_shared_input<double>();
  test_neighbouring_results();
  test_batches();
  test_batches_that_fail();
  test_batches_at_once();
  test_late_helpers();
  std::puts("threads agree");
}
