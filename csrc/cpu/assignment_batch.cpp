#include "cpu/assignment_batch.hpp"

#include <algorithm>
#include <atomic>
#include <numeric>

namespace fastrebasin::cpu {
namespace {

// Starting a thread takes about a quarter of the time of solving a matrix of this many entries: no
// smaller share of a batch is worth one.
constexpr std::int64_t entries_per_thread = 1 << 13;

std::int64_t entries(const AssignmentTask& task) {
  return std::visit([](const auto& cost) { return cost.rows * cost.cols; }, task.cost);
}

// The largest problems first: a thread that begins one late makes all others wait.
std::vector<std::int64_t> by_size(const std::vector<AssignmentTask>& tasks) {
  std::vector<std::int64_t> order(tasks.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) {
    return entries(tasks[a]) > entries(tasks[b]);
  });
  return order;
}

}  // namespace

BatchOutcome solve_assignments(const std::vector<AssignmentTask>& tasks, bool maximize, int threads,
                               const Poll& interrupted) {
  const auto count = static_cast<std::int64_t>(tasks.size());
  std::int64_t work = 0;
  for (const AssignmentTask& task : tasks) work += entries(task);
  const auto useful = static_cast<int>(std::min<std::int64_t>(threads, work / entries_per_thread));
  // What is left of the threads when every problem has one goes into the problems.
  const int each = count == 0 ? 1 : static_cast<int>(std::max<std::int64_t>(1, threads / count));

  const std::vector<std::int64_t> order = by_size(tasks);
  std::vector<AssignmentStatus> status(tasks.size(), AssignmentStatus::optimal);
  std::atomic<std::int64_t> failed{count};
  const auto solve = [&](std::int64_t k, const Poll& stopped) {
    const std::int64_t index = order[k];
    const Poll given_up = [&] { return stopped() || failed < index; };
    if (given_up()) return;
    const AssignmentTask& task = tasks[index];
    status[index] = std::visit(
        [&](const auto& cost) {
          return solve_assignment(cost, maximize, task.warm, task.result, given_up, each);
        },
        task.cost);
    const bool solved = status[index] == AssignmentStatus::optimal;
    if (solved || status[index] == AssignmentStatus::interrupted) return;
    std::int64_t first = failed;
    while (index < first && !failed.compare_exchange_weak(first, index)) {
    }
  };
  if (!parallel_for(count, useful, interrupted, solve)) return {AssignmentStatus::interrupted, 0};
  if (failed == count) return {AssignmentStatus::optimal, 0};
  return {status[failed], failed};
}

}  // namespace fastrebasin::cpu
