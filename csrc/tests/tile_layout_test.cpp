// What the kernels of cross-moments count on: numbers are widened and split without loss, and tiles
// lie so that threads don't wait for each other.

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <string>
#include <vector>

#include "activations.hpp"
#include "check.hpp"
#include "cuda/tile_product.cuh"
#include "cuda/warpgroup_product.cuh"

namespace fastrebasin::tests {
namespace {

using cuda::Precision;

void test_elements_are_widened_exactly() {
  current_case = "widening";
  for (unsigned bits = 0; bits < 0x10000; ++bits) {
    const int exponent = bits >> 10 & 0x1F, places = bits & 0x3FF;
    const float value = cuda::widened_float16(bits);
    CHECK(std::signbit(value) == (bits >> 15 != 0));
    if (exponent == 31) {
      CHECK(places ? std::isnan(value) : std::isinf(value));
    } else {
      const int units = exponent ? 0x400 + places : places;
      CHECK(std::fabs(value) == std::ldexp(units, std::max(exponent, 1) - 25));
      CHECK(to_float16(value) == (units ? bits : 0));
    }
    CHECK(__float_as_uint(cuda::widened_bfloat16(bits)) == bits << 16);
  }
}

void test_halves_are_the_whole() {
  current_case = "halves";
  Random random(10);
  for (int k = 0; k < 100'000; ++k) {
    const auto bits = static_cast<unsigned>(random());
    if ((bits & 0x7F000000u) == 0x7F000000u) continue;  // infinite, or almost
    const cuda::Halves halves = cuda::halves_of(bits);
    const double value = __uint_as_float(bits), leading = __uint_as_float(halves.leading);
    CHECK((halves.leading & 0x1FFFu) == 0);
    CHECK(leading + __uint_as_float(halves.rest) == value);
    CHECK(std::fabs(value - leading) <= std::max(std::fabs(value) * 0x1p-11, 0x1p-137));
  }
  CHECK(std::isnan(__uint_as_float(cuda::halves_of(0x7FFFFFFFu).rest)));
  CHECK(std::isnan(__uint_as_float(cuda::halves_of(0xFF800000u).rest)));
}

// Threads that a device serves at once meet in no bank of shared memory, and no two quads in one
// place. So many members of a group are read at once.
template <typename Shape, int members_at_once>
void test_quads_share_no_bank() {
  using Side = typename Shape::YSide;
  constexpr int tile = Side::units;
  current_case = "banks, tile of " + std::to_string(tile);
  const auto check_apart = [](std::vector<unsigned> banks) {
    std::sort(banks.begin(), banks.end());
    CHECK(std::adjacent_find(banks.begin(), banks.end()) == banks.end());
  };
  const auto at = [](unsigned unit, unsigned quad) {
    return Shape::quad_at(cuda::place_of(unit), quad);
  };
  std::vector<unsigned> all;
  for (int quad = 0; quad < Shape::quads; ++quad)
    for (int unit = 0; unit < tile; ++unit) {
      CHECK(int(cuda::unit_at(cuda::place_of(unit))) == unit);
      all.push_back(at(unit, quad));
      CHECK(all.back() < unsigned(tile * Shape::quads));
    }
  check_apart(all);
  for (const bool along_units : {false, true})
    for (int first = 0; first < Side::patches; first += 8) {
      std::vector<unsigned> banks;
      for (int patch = first; patch < first + 8; ++patch) {
        const cuda::PatchPlace<Side> place(along_units, patch);
        CHECK(int(place.patch_of(along_units, place.unit, place.quad)) == patch);
        banks.push_back(at(place.unit, place.quad) % 8);
      }
      check_apart(banks);
    }
  for (int quad = 0; quad < Shape::quads; quad += 8 / members_at_once)
    for (int unit = 0; unit < tile; unit += 4 * members_at_once) {
      std::vector<unsigned> banks;
      for (int k = 0; k < 8; ++k)
        banks.push_back(at(unit + 4 * (k % members_at_once), quad + k / members_at_once) % 8);
      check_apart(banks);
    }
}

}  // namespace
}  // namespace fastrebasin::tests

int main() {
  using namespace fastrebasin::tests;
  namespace cuda = fastrebasin::cuda;
  test_elements_are_widened_exactly();
  test_halves_are_the_whole();
  test_quads_share_no_bank<cuda::WarpShape<32, cuda::Precision::high>, 4>();
  test_quads_share_no_bank<cuda::WarpShape<64, cuda::Precision::high>, 4>();
  test_quads_share_no_bank<cuda::WarpShape<128, cuda::Precision::high>, 4>();
  test_quads_share_no_bank<cuda::WarpgroupShape<128, cuda::Precision::high>, 8>();
  test_quads_share_no_bank<cuda::WarpgroupShape<256, cuda::Precision::high>, 8>();
  std::puts("numbers are split without loss, and tiles lie well");
}
