#pragma once

#include <cstdint>
#include <vector>

#include "cpu/candidate_lists.hpp"

namespace fastrebasin::cpu {

// Finds good prices to start from: a forward auction among `rows` with a few falling tolerances.
// Only prices survive; the assignment is empty after, as the auction's edges are tight only up to
// the tolerance. Meant for as many rows as columns they may take: with columns to spare, one that
// was bid down and then left alone would break the rule that columns left over keep the highest
// price.
template <typename T>
void auction_prices(Problem<T>& problem, CandidateLists<T>& lists, EqualColumns<T>& equal,
                    const std::vector<std::int64_t>& rows);

}  // namespace fastrebasin::cpu
