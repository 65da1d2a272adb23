// Solves in several threads at once, for the thread sanitizer: the solver keeps nothing between
// calls and only reads its input.

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <string>
#include <thread>
#include <vector>

#include "check.hpp"
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
  return a.col4row == b.col4row && a.row_duals == b.row_duals && a.col_duals == b.col_duals &&
         a.gap == b.gap;
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
  std::vector<double> duals(2 * thread_count * n), gap(thread_count);
  in_threads([&](int k) {
    cpu::solve_assignment<float>(
        buffer.view(), true, {nullptr, nullptr},
        {&col4row[k * n], &duals[2 * k * n], &duals[(2 * k + 1) * n], &gap[k]}, never);
  });
  for (int k = 1; k < thread_count; ++k)
    CHECK(std::equal(col4row.begin(), col4row.begin() + n, col4row.begin() + k * n));
}

// The thread pool and batches of assignments belong here: every size of batch beside the number of
// threads, an error and an interruption in the middle, two batches at once.

}  // namespace
}  // namespace fastrebasin::tests

int main() {
  using namespace fastrebasin::tests;
  test_first_calls<float>();
  test_shared_input<float>();
  test_shared_input<double>();
  test_neighbouring_results();
  std::puts("threads agree");
}
