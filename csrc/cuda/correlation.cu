// Sums of products of units, X^T Y, of many pairs of matrices in one launch.
//
// A block of threads owns a tile of one product, and a part of the observations. It takes them in
// spans: within a span it sums in float32 registers, after it the sums go to float64. Where one
// product has too few tiles to fill a device, its observations are cut into parts; each has results
// of its own in the workspace, and a second kernel adds them in order. Nothing is added atomically.
// The tensor cores multiply: see tensor_cores.cuh. Of a product of units with themselves only the
// tiles on one side of the diagonal are computed.

#include <algorithm>

#include "cuda/correlation.hpp"
#include "cuda/correlation_kernel.cuh"
#include "cuda/correlation_tasks.hpp"
#include "cuda/correlation_warpgroups.hpp"
#include "cuda/launch.cuh"
#include "cuda/product_tile.cuh"
#include "cuda/tile_in_turn.cuh"
#include "cuda/tile_product.cuh"

namespace fastrebasin::cuda {
namespace {

constexpr int adding_threads = 256;
constexpr int most_adding_blocks = 1024;

// Adds the results of a problem's parts, in order, to the problem's. A row of blocks for each.
__global__ void __launch_bounds__(adding_threads) add_parts(const __grid_constant__ Group group) {
  const Task& task = group.tasks[blockIdx.y];
  if (!task.part_results) return;
  const Units &x = task.problem.x, &y = task.problem.y;
  const std::int64_t products = x.count * y.count, count = products + 2 * (x.count + y.count);
  const std::int64_t first = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  for (std::int64_t at = first; at < count; at += std::int64_t{gridDim.x} * blockDim.x) {
    double* results = task.problem.products;
    std::int64_t index = at, from = at;
    if (at >= products) {
      const bool of_x = at < products + 2 * x.count;
      const Units& units = of_x ? x : y;
      index -= of_x ? products : products + 2 * x.count;
      results = index < units.count ? units.sums : units.squares;
      index %= units.count;
    } else if (task.symmetric && at / y.count > at % y.count) {
      from = at % y.count * y.count + at / y.count;
    }
    if (!results) continue;
    double sum = 0;
    for (std::int64_t part = 0; part < task.parts; ++part)
      sum += task.part_results[part * task.result_count + from];
    results[index] += sum;
  }
}

template <Precision precision>
void multiply_by_warps(const Group& group, int tile, Stream stream) {
  switch (tile) {
    case 32:
      return launch_multiply<TileInTurn<WarpShape<32, precision>>>(group, stream);
    case 64:
      return launch_multiply<TileInTurn<WarpShape<64, precision>>>(group, stream);
    default:
      return launch_multiply<TileInTurn<WarpShape<128, precision>>>(group, stream);
  }
}

void multiply_by_warps(const Group& group, Precision precision, Stream stream) {
  switch (precision) {
    case Precision::highest:
      return multiply_by_warps<Precision::highest>(group, group.cut.x_units, stream);
    case Precision::high:
      return multiply_by_warps<Precision::high>(group, group.cut.x_units, stream);
    case Precision::medium:
      return multiply_by_warps<Precision::medium>(group, group.cut.x_units, stream);
  }
}

void add_parts_of(const Group& group, Stream stream) {
  if (group.part_results_count == 0) return;
  const std::int64_t blocks = quotient(group.part_results_count, adding_threads);
  const auto enough = static_cast<unsigned>(std::min<std::int64_t>(blocks, most_adding_blocks));
  launch(add_parts, dim3(enough, group.count), adding_threads, 0, stream, group);
}

}  // namespace

std::size_t workspace_bytes(const std::vector<CrossMoments>& problems, Precision precision,
                            int device) {
  return workspace_bytes(problems, Manner{precision, has_warpgroups(device)});
}

// The groups follow each other on the stream, so all take the same workspace.
void add_cross_moments(const std::vector<CrossMoments>& problems, Precision precision,
                       void* workspace, int device, Stream stream) {
  const OnDevice on(device);
  const Manner manner{precision, has_warpgroups(device)};
  for (const Group& group : groups_of(problems, manner, static_cast<double*>(workspace))) {
    if (group.cut.by_warpgroups)
      multiply_by_warpgroups(group, precision, stream);
    else
      multiply_by_warps(group, precision, stream);
    add_parts_of(group, stream);
  }
}

}  // namespace fastrebasin::cuda
