#include "cuda/correlation_tasks.hpp"

#include <algorithm>
#include <cstdlib>
#include <limits>
#include <stdexcept>

namespace fastrebasin::cuda {
namespace {

// Of the largest devices. Whatever the device, work is cut for these, so that results don't depend
// on it.
constexpr std::int64_t multiprocessors = 132;
constexpr int most_waves = 4;
// What a part costs beside its observations, in observations.
constexpr std::int64_t part_cost = 256;
constexpr std::int64_t most_part_observations = std::int64_t{1} << 30;
constexpr std::int64_t most_blocks = std::numeric_limits<int>::max();  // in one launch

constexpr int last_axis = observation_axes - 1;

// Small tiles waste less on few units.
constexpr Cut cuts[] = {
    {32, 32, false}, {64, 64, false}, {128, 128, false}, {128, 128, true}, {128, 256, true}};

const Cut& cut_for(const CrossMoments& problem, Manner manner) {
  const std::int64_t units = std::max(problem.x.count, problem.y.count);
  if (units <= 32) return cuts[0];
  if (units <= 64) return cuts[1];
  if (!manner.by_warpgroups) return cuts[2];
  return manner.precision == Precision::high && problem.y.count > 128 ? cuts[4] : cuts[3];
}

std::int64_t observations_of(const CrossMoments& problem) {
  std::int64_t product = 1;
  for (const std::int64_t count : problem.observations) product *= count;
  return product;
}

bool is_empty(const CrossMoments& problem) {
  return problem.x.count == 0 || problem.y.count == 0 || observations_of(problem) == 0;
}

bool is_symmetric(const CrossMoments& problem) {
  const Units &x = problem.x, &y = problem.y;
  bool same = !problem.gathered && x.data == y.data && x.element == y.element &&
              x.count == y.count && x.stride == y.stride && x.shift == y.shift;
  for (int axis = 0; axis < observation_axes; ++axis)
    same = same && x.observation_strides[axis] == y.observation_strides[axis];
  return same;
}

// What is gathered along the last axis may lie anywhere on it.
Access access_of(const Units& units, const std::int64_t (&observations)[observation_axes],
                 bool gathered = false) {
  const std::int64_t inner = units.observation_strides[last_axis];
  const bool along_units =
      observations[last_axis] == 1 || (units.count > 1 && units.stride <= inner);
  // Along one axis four values follow each other, along all others four are stepped over.
  bool in_fours = along_units ? units.stride == 1
                              : inner == 1 && !gathered && observations[last_axis] % 4 == 0 &&
                                    (units.stride % 4 == 0 || units.count == 1);
  for (int axis = 0; axis < observation_axes; ++axis)
    if (observations[axis] > 1 && (along_units || axis != last_axis))
      in_fours = in_fours && units.observation_strides[axis] % 4 == 0;
  const std::size_t bytes = units.element == Element::float32 ? 16 : 8;
  in_fours = in_fours && reinterpret_cast<std::uintptr_t>(units.data) % bytes == 0;
  return {along_units, in_fours};
}

// The length of parts that takes the least time where so many blocks run at once.
std::int64_t part_observations(std::int64_t observations, std::int64_t tiles, const Cut& cut) {
  const std::int64_t at_once =
      multiprocessors * (cut.by_warpgroups ? 1 : blocks_at_once(cut.x_units));
  std::int64_t best = 0, least = std::numeric_limits<std::int64_t>::max();
  for (int waves = 1; waves <= most_waves; ++waves) {
    const std::int64_t wanted = std::clamp<std::int64_t>(waves * at_once / tiles, 1, observations);
    const std::int64_t length = std::min(
        quotient(quotient(observations, wanted), stretch) * stretch, most_part_observations);
    const std::int64_t parts = quotient(observations, length);
    const std::int64_t time = quotient(tiles * parts, at_once) * (length + part_cost);
    if (time < least) {
      least = time;
      best = length;
    }
  }
  return best;
}

Task task_for(const CrossMoments& problem, const Cut& cut) {
  Task task{};
  task.problem = problem;
  task.x_access = access_of(problem.x, problem.observations);
  task.y_access = access_of(problem.y, problem.observations,
                            problem.gathered && problem.gathered_axis == last_axis);
  task.symmetric = is_symmetric(problem);
  task.observations = observations_of(problem);
  const std::int64_t x = problem.x.count, y = problem.y.count;
  task.tile_columns = quotient(y, cut.y_units);
  for (std::int64_t row = 0; row < quotient(x, cut.x_units); ++row)
    task.tiles += task.tile_columns - (task.symmetric ? row * cut.x_units / cut.y_units : 0);
  // Even, so that two numbers of each part's can be written at once.
  task.result_count = quotient(x * y + 2 * (x + y), 2) * 2;
  const std::int64_t length = part_observations(task.observations, task.tiles, cut);
  task.part_observations = static_cast<int>(length);
  task.parts = quotient(task.observations, length);
  if (std::max({x, y, task.tiles * task.parts}) > most_blocks)
    throw std::runtime_error("a product of this size has too many tiles for one launch");
  return task;
}

// Numbers that the results of a task's parts take in the workspace. There symmetric products stay
// until they are mirrored.
std::int64_t workspace_count(const Task& task) {
  return task.parts > 1 || task.symmetric ? task.parts * task.result_count : 0;
}

// Calls put(task, whether it begins a group) for each problem that is cut so and has anything to
// add.
template <typename Put>
void for_each_task(const std::vector<CrossMoments>& problems, Manner manner, const Cut& cut,
                   Put put) {
  std::int64_t blocks = 0;
  std::vector<const double*> results;  // of the group
  for (const CrossMoments& problem : problems) {
    if (is_empty(problem) || &cut_for(problem, manner) != &cut) continue;
    Task task = task_for(problem, cut);
    const std::int64_t added = task.tiles * task.parts;
    const bool shared = std::count(results.begin(), results.end(), problem.products) > 0;
    const bool begins =
        results.empty() || results.size() == most_tasks || shared || blocks + added > most_blocks;
    if (begins) {
      blocks = 0;
      results.clear();
    }
    task.first_block = blocks;
    blocks += added;
    results.push_back(problem.products);
    put(task, begins);
  }
}

}  // namespace

std::vector<Group> groups_of(const std::vector<CrossMoments>& problems, Manner manner,
                             double* workspace) {
  std::vector<Group> groups;
  double* free = workspace;
  for (const Cut& cut : cuts)
    for_each_task(problems, manner, cut, [&](Task& task, bool begins) {
      if (begins) {
        groups.emplace_back();
        groups.back().cut = cut;
        free = workspace;
      }
      Group& group = groups.back();
      if (const std::int64_t count = workspace_count(task)) {
        task.part_results = free;
        free += count;
        group.part_results_count = std::max(group.part_results_count, task.result_count);
      }
      group.blocks = task.first_block + task.tiles * task.parts;
      group.tasks[group.count++] = task;
    });
  return groups;
}

std::size_t workspace_bytes(const std::vector<CrossMoments>& problems, Manner manner) {
  std::int64_t most = 0, used = 0;
  for (const Cut& cut : cuts)
    for_each_task(problems, manner, cut, [&](const Task& task, bool begins) {
      used = (begins ? 0 : used) + workspace_count(task);
      most = std::max(most, used);
    });
  return most * sizeof(double);
}

}  // namespace fastrebasin::cuda
