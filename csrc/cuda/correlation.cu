// Sums of products of units, X^T Y, of many pairs of matrices in one launch.
//
// A block of threads owns a tile of one product, and a part of the observations. It takes them in
// spans: within a span it sums in float32 registers, after it the sums go to float64. Where one
// product has too few tiles to fill a device, its observations are cut into parts; each has results
// of its own in the workspace, and a second kernel adds them in order. Nothing is added atomically.

#include <algorithm>

#include "cuda/correlation.hpp"
#include "cuda/correlation_tasks.hpp"
#include "cuda/elements.cuh"
#include "cuda/launch.cuh"
#include "cuda/tile_product.cuh"

namespace fastrebasin::cuda {
namespace {

constexpr int most_adding_blocks = 1024;
static_assert(sizeof(Group) <= 4096, "the arguments of a launch have no more room");

struct Results {
  double *products, *x_sums, *x_squares, *y_sums, *y_squares;
};

__device__ Results results_of(const Task& task, std::int64_t part) {
  const CrossMoments& problem = task.problem;
  if (!task.part_results)
    return {problem.products, problem.x.sums, problem.x.squares, problem.y.sums, problem.y.squares};
  double* products = task.part_results + part * task.result_count;
  double* x_sums = products + problem.x.count * problem.y.count;
  double* y_sums = x_sums + 2 * problem.x.count;
  return {products, x_sums, x_sums + problem.x.count, y_sums, y_sums + problem.y.count};
}

// Shared by the threads of a block for one side of a product. One of two tiles is multiplied while
// the other is filled.
template <int tile>
struct Side {
  Tile<tile> values[2];
  float shift[tile];
  std::int64_t offsets[span];  // of the span's observations
};

template <int tile>
struct Shared {
  Side<tile> x, y;
};

// What a thread loads of each tile.
template <int tile>
constexpr int loads = tile * depth / block_threads;

struct Place {
  int unit, observation;
};

// Where in a tile a thread's `index`-th value lies. Neighbouring threads read along the axis whose
// values lie closer.
template <int tile>
__device__ Place place_of(bool along_units, int index) {
  const int thread = threadIdx.x;
  if (along_units) return {thread % tile, thread / tile + index * (block_threads / tile)};
  return {thread / depth + index * (block_threads / depth), thread % depth};
}

__device__ bool along_units(const Units& units) {
  return units.stride <= units.observation_strides[observation_axes - 1];
}

// Reads a thread's values of a tile; zeros beyond the last unit or observation.
template <int tile, typename Stored>
__device__ void read_tile(const Units& units, std::int64_t first_unit, const Side<tile>& side,
                          int first_observation, int observations, unsigned (&bits)[loads<tile>]) {
  const auto* data = static_cast<const Stored*>(units.data);
  const bool along = along_units(units);
#pragma unroll
  for (int i = 0; i < loads<tile>; ++i) {
    const Place place = place_of<tile>(along, i);
    const int observation = first_observation + place.observation;
    const std::int64_t unit = first_unit + place.unit;
    if (observation < observations && unit < units.count)
      bits[i] = bits_at(data, side.offsets[observation] + unit * units.stride);
  }
}

template <int tile>
__device__ void read_tile(const Units& units, std::int64_t first_unit, const Side<tile>& side,
                          int first_observation, int observations, unsigned (&bits)[loads<tile>]) {
  if (units.element == Element::float32)
    read_tile<tile, float>(units, first_unit, side, first_observation, observations, bits);
  else
    read_tile<tile, std::uint16_t>(units, first_unit, side, first_observation, observations, bits);
}

// Writes what read_tile read, shifted; zeros beyond the last unit or observation.
template <int tile, Element element>
__device__ void write_tile(const Units& units, std::int64_t first_unit, Side<tile>& side,
                           int buffer, int observations, const unsigned (&bits)[loads<tile>]) {
  const bool along = along_units(units);
#pragma unroll
  for (int i = 0; i < loads<tile>; ++i) {
    const Place place = place_of<tile>(along, i);
    const bool inside = place.observation < observations && first_unit + place.unit < units.count;
    side.values[buffer][place.observation][place.unit] =
        inside ? widened<element>(bits[i]) - side.shift[place.unit] : 0.0f;
  }
}

template <int tile>
__device__ void write_tile(const Units& units, std::int64_t first_unit, Side<tile>& side,
                           int buffer, int observations, const unsigned (&bits)[loads<tile>]) {
  switch (units.element) {
    case Element::float32:
      return write_tile<tile, Element::float32>(units, first_unit, side, buffer, observations,
                                                bits);
    case Element::bfloat16:
      return write_tile<tile, Element::bfloat16>(units, first_unit, side, buffer, observations,
                                                 bits);
    case Element::float16:
      return write_tile<tile, Element::float16>(units, first_unit, side, buffer, observations,
                                                bits);
  }
}

template <int tile>
__device__ void read_shift(const Units& units, std::int64_t first_unit, Side<tile>& side) {
  const std::int64_t unit = first_unit + threadIdx.x;
  if (threadIdx.x < tile)
    side.shift[threadIdx.x] = units.shift && unit < units.count ? units.shift[unit] : 0.0f;
}

// Where the observations of a span lie, one for each thread.
template <int tile>
__device__ void find_observations(const CrossMoments& problem, std::int64_t first, int count,
                                  Shared<tile>& shared) {
  static_assert(span == block_threads, "a thread for each observation");
  if (static_cast<int>(threadIdx.x) >= count) return;
  std::int64_t rest = first + threadIdx.x, x = 0, y = 0;
#pragma unroll
  for (int axis = observation_axes - 1; axis >= 0; --axis) {
    const std::int64_t size = problem.observations[axis], index = size == 1 ? 0 : rest % size;
    rest = size == 1 ? rest : rest / size;
    x += index * problem.x.observation_strides[axis];
    y += index * problem.y.observation_strides[axis];
  }
  shared.x.offsets[threadIdx.x] = x;
  shared.y.offsets[threadIdx.x] = y;
}

// The sums of one unit, of x or of y: in float32 over a tile, in float64 beyond.
struct UnitSums {
  double sum = 0, square = 0;

  template <int tile>
  __device__ void add(const Tile<tile>& values, int unit) {
    float tile_sum = 0, tile_square = 0;
#pragma unroll
    for (int k = 0; k < depth; ++k) {
      const float value = values[k][unit];
      tile_sum += value;
      tile_square += value * value;
    }
    sum += tile_sum;
    square += tile_square;
  }
};

// Adds to where a single part's results go, which hold sums; a part's own hold nothing yet.
__device__ void add_to(double& result, double value, bool holds_sums) {
  result = holds_sums ? result + value : value;
}

template <int tile>
class TileOfProduct {
 public:
  __device__ TileOfProduct(const Task& task, Shared<tile>& shared, std::int64_t block)
      : task_(task),
        problem_(task.problem),
        shared_(shared),
        part_(block / task.tiles),
        first_x_(block % task.tiles / task.tile_columns * tile),
        first_y_(block % task.tiles % task.tile_columns * tile),
        results_(results_of(task, part_)) {}

  __device__ void run() {
    read_shift<tile>(problem_.x, first_x_, shared_.x);
    read_shift<tile>(problem_.y, first_y_, shared_.y);
    const std::int64_t first = part_ * task_.part_spans * span;
    const std::int64_t end = first + task_.part_spans * span;
    const std::int64_t last = end < task_.observations ? end : task_.observations;
    for (std::int64_t at = first; at < last; at += span) {
      const int count = static_cast<int>(last - at < span ? last - at : span);
      find_observations<tile>(problem_, at, count, shared_);
      __syncthreads();
      add_span(count, !task_.part_results || at > first);
    }
    write_unit_sums();
  }

 private:
  // The span's tiles, each read while the one before it is multiplied.
  __device__ void add_span(int count, bool holds_sums) {
    float products[per_side<tile>][per_side<tile>] = {};
    unsigned x_bits[loads<tile>] = {}, y_bits[loads<tile>] = {};
    read(0, count, x_bits, y_bits);
    write(0, count, x_bits, y_bits);
    __syncthreads();
    int buffer = 0;
    for (int at = 0; at < count; at += depth, buffer ^= 1) {
      const int next = at + depth;
      if (next < count) read(next, count, x_bits, y_bits);
      multiply_tile<tile>(shared_.x.values[buffer], shared_.y.values[buffer], products);
      if (adds_units()) sums_.template add<tile>(mine().values[buffer], threadIdx.x % tile);
      if (next < count) write(buffer ^ 1, count - next, x_bits, y_bits);
      __syncthreads();
    }
    write_products(products, holds_sums);
  }

  __device__ void read(int first, int count, unsigned (&x)[loads<tile>],
                       unsigned (&y)[loads<tile>]) {
    read_tile<tile>(problem_.x, first_x_, shared_.x, first, count, x);
    read_tile<tile>(problem_.y, first_y_, shared_.y, first, count, y);
  }

  __device__ void write(int buffer, int count, const unsigned (&x)[loads<tile>],
                        const unsigned (&y)[loads<tile>]) {
    write_tile<tile>(problem_.x, first_x_, shared_.x, buffer, count, x);
    write_tile<tile>(problem_.y, first_y_, shared_.y, buffer, count, y);
  }

  __device__ void write_products(const float (&products)[per_side<tile>][per_side<tile>],
                                 bool holds_sums) {
    const int row = threadIdx.x / block_side, col = threadIdx.x % block_side;
#pragma unroll
    for (int i = 0; i < per_side<tile>; ++i) {
      const std::int64_t x = first_x_ + unit_of<tile>(row, i);
#pragma unroll
      for (int j = 0; j < per_side<tile>; ++j) {
        const std::int64_t y = first_y_ + unit_of<tile>(col, j);
        if (x < problem_.x.count && y < problem_.y.count)
          add_to(results_.products[x * problem_.y.count + y], products[i][j], holds_sums);
      }
    }
  }

  // The first threads sum units of x, as many after them units of y: the blocks of the first column
  // of tiles, and those of the first row.
  __device__ bool sums_x() const { return threadIdx.x < tile; }
  __device__ const Units& my_units() const { return sums_x() ? problem_.x : problem_.y; }
  __device__ const Side<tile>& mine() const { return sums_x() ? shared_.x : shared_.y; }
  __device__ bool adds_units() const {
    return threadIdx.x < 2 * tile && (sums_x() ? first_y_ : first_x_) == 0 && my_units().sums;
  }

  __device__ void write_unit_sums() {
    const std::int64_t unit = (sums_x() ? first_x_ : first_y_) + threadIdx.x % tile;
    if (!adds_units() || unit >= my_units().count) return;
    const bool holds_sums = !task_.part_results;
    add_to((sums_x() ? results_.x_sums : results_.y_sums)[unit], sums_.sum, holds_sums);
    add_to((sums_x() ? results_.x_squares : results_.y_squares)[unit], sums_.square, holds_sums);
  }

  const Task& task_;
  const CrossMoments& problem_;
  Shared<tile>& shared_;
  const std::int64_t part_, first_x_, first_y_;
  const Results results_;
  UnitSums sums_;
};

// All tiles of all parts of all problems of a group. x: (observations, x.count), y: (observations,
// y.count), products (x.count, y.count). A tile of 128 is meant for hundreds of units and more;
// smaller ones waste less on fewer. It takes so many registers that a multiprocessor has room for
// one block; they would spill if there were to be room for two.
template <int tile>
__global__ void __launch_bounds__(block_threads, tile == 128 ? 1 : 2)
    multiply(const __grid_constant__ Group group) {
  int number = 0;
  while (number + 1 < group.count && group.tasks[number + 1].first_block <= blockIdx.x) ++number;
  const Task& task = group.tasks[number];
  TileOfProduct<tile>(task, shared_memory<Shared<tile>>(), blockIdx.x - task.first_block).run();
}

// Adds the results of a problem's parts, in order, to the problem's. A row of blocks for each.
__global__ void __launch_bounds__(block_threads) add_parts(const __grid_constant__ Group group) {
  const Task& task = group.tasks[blockIdx.y];
  if (!task.part_results) return;
  const Units &x = task.problem.x, &y = task.problem.y;
  const std::int64_t count = task.result_count, products = x.count * y.count;
  const std::int64_t first = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  for (std::int64_t at = first; at < count; at += std::int64_t{gridDim.x} * blockDim.x) {
    double* results = task.problem.products;
    std::int64_t index = at;
    if (at >= products) {
      const bool of_x = at < products + 2 * x.count;
      const Units& units = of_x ? x : y;
      index -= of_x ? products : products + 2 * x.count;
      results = index < units.count ? units.sums : units.squares;
      index %= units.count;
    }
    if (!results) continue;
    double sum = 0;
    for (std::int64_t part = 0; part < task.parts; ++part)
      sum += task.part_results[part * count + at];
    results[index] += sum;
  }
}

// The groups follow each other on the stream, so all take the same workspace.
template <int tile>
void run(const std::vector<CrossMoments>& problems, double* workspace, Stream stream) {
  for (const Group& group : groups_of(problems, tile, workspace)) {
    launch(multiply<tile>, static_cast<unsigned>(group.blocks), block_threads, sizeof(Shared<tile>),
           stream, group);
    if (group.part_results_count == 0) continue;
    const std::int64_t blocks = quotient(group.part_results_count, block_threads);
    const auto enough = static_cast<unsigned>(std::min<std::int64_t>(blocks, most_adding_blocks));
    launch(add_parts, dim3(enough, group.count), block_threads, 0, stream, group);
  }
}

}  // namespace

void add_cross_moments(const std::vector<CrossMoments>& problems, void* workspace, int device,
                       Stream stream) {
  const OnDevice on(device);
  auto* parts = static_cast<double*>(workspace);
  run<32>(problems, parts, stream);
  run<64>(problems, parts, stream);
  run<128>(problems, parts, stream);
}

}  // namespace fastrebasin::cuda
