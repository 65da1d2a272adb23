#pragma once

#include <cstdint>
#include <vector>

#include "cpu/candidate_lists.hpp"
#include "cpu/equal_columns.hpp"

namespace fastrebasin::cpu {

// Constant rows and equal columns: the units of a network that never fire, a fifth of a trained
// layer. To bid for one of hundreds of equal columns, or on behalf of hundreds of rows that don't
// care, is what makes such matrices hard. So rows and columns are set aside in pairs, the core that
// remains is solved, and the pairs come back as one class. Columns beyond the number of rows stay
// in the core, as one column with room for several rows.
//
// Why that is exact: all dead columns get one price, the highest at which no row of the core
// prefers a dead column to its own. If no column of the core is priced higher, the dead rows, which
// only look at prices, are content with the dead columns, and the assignment is optimal. Otherwise
// dead rows are assigned along shortest paths, which may end in any dead column, until it holds.
struct DeadUnits {
  std::vector<std::int64_t> rows, cols;  // equally many, ascending
  std::vector<std::int64_t> spare_cols;  // columns like `cols`, beyond the rows' number
  std::vector<char> constant;            // for each row, whether it is dead, here or in the core

  bool is_constant(std::int64_t i) const { return !constant.empty() && constant[i] != 0; }
};

// Finds the dead units of a square problem; looks at every dead row, and at a few entries of
// others. `dead_columns_agree` must confirm the columns.
template <typename T>
DeadUnits find_dead_units(Problem<T>& problem);

// Whether the dead columns are indeed equal on row i.
template <typename T>
bool dead_columns_agree(const Problem<T>& problem, const DeadUnits& dead, std::int64_t i);

// Sets the paired columns aside: at a price of -inf nobody wants them.
template <typename T>
void set_aside(Problem<T>& problem, const DeadUnits& dead);

// Prices the spare columns, which are `equal`, so that about as many of `rows` want them as there
// are of them.
template <typename T>
void price_spares(EqualColumns<T>& equal, CandidateLists<T>& lists,
                  const std::vector<std::int64_t>& rows);

// Assigns the dead rows and columns, once the core is solved; false when infeasible.
template <typename T>
bool bring_back(Problem<T>& problem, CandidateLists<T>& lists, EqualColumns<T>& equal,
                const DeadUnits& dead);

}  // namespace fastrebasin::cpu
