// R. Jonker and A. Volgenant, "A shortest augmenting path algorithm for dense and sparse linear
// assignment problems", Computing 38, 325-340 (1987), doi:10.1007/BF02278710.
//
// We differ in starting from the rows: column minima alone would let columns of equal entries (dead
// units of a network) drag every row to the same place. And there is no augmenting row reduction,
// which takes as long here as the searches that it saves. Sets of columns are the bits of a few
// words, so that "the first free one of those at the lowest distance" takes a few instructions;
// and what changes one column rewrites the vector that holds it, because a processor that wrote a
// part of a vector has to wait before it can read the whole.
//
// Included inside the namespace of an instruction set, by row_kernels.inl.

// A set of columns or rows, a bit for each.
template <int words>
struct Bits {
  static constexpr std::int64_t capacity = 64 * words;
  std::uint64_t word[words];

  static Bits first(std::int64_t count) {
    Bits bits{};
    for (int w = 0; w < words; ++w, count -= 64)
      bits.word[w] = count >= 64 ? ~std::uint64_t{0}
                     : count > 0 ? ~std::uint64_t{0} >> (64 - count)
                                 : 0;
    return bits;
  }

  bool has(std::int64_t k) const { return word[k / 64] >> k % 64 & 1; }
  void remove(std::int64_t k) { word[k / 64] &= ~(std::uint64_t{1} << k % 64); }
  bool empty() const {
    std::uint64_t any = 0;
    for (int w = 0; w < words; ++w) any |= word[w];
    return any == 0;
  }
  // The first of a set that isn't empty.
  std::int64_t lowest() const {
    int w = 0;
    while (w < words - 1 && word[w] == 0) ++w;
    return 64 * w + __builtin_ctzll(word[w]);
  }
  friend Bits operator&(Bits a, const Bits& b) {
    for (int w = 0; w < words; ++w) a.word[w] &= b.word[w];
    return a;
  }
};

// Keeps the invariant of `Problem`: assigned edges are tight.
template <typename T, int words>
class SmallSolver {
 public:
  explicit SmallSolver(const SmallProblem<T>& problem)
      : problem_(problem),
        costs_(problem.workspace),
        stride_(small_stride(problem.cols)),
        end_((problem.cols + lanes - 1) / lanes * lanes),
        free_(Set::first(problem.cols)),
        left_(Set::first(problem.rows)) {}

  SmallOutcome solve() {
    const SmallOutcome outcome = read();
    if (outcome != SmallOutcome::optimal) return outcome;
    if (problem_.warm) {
      assign_tight();
    } else {
      assign_row_minima();
      if (problem_.rows == problem_.cols && !left_.empty() && !reduce_columns())
        return SmallOutcome::infeasible;
    }
    for (; !left_.empty(); left_.remove(left_.lowest()))
      if (!augment(left_.lowest())) return SmallOutcome::infeasible;
    for (std::int64_t j = 0; j < problem_.cols; ++j) problem_.price[j] = price_[j];
    return SmallOutcome::optimal;
  }

 private:
  using Set = Bits<words>;
  static constexpr std::int64_t none = -1, largest = Set::capacity;

  // Which columns have a value of at most `limit`.
  template <typename ValuesAt>
  Set at_most(double limit, ValuesAt values_at) const {
    Set set;
    for (int w = 0; w < words; ++w)
      set.word[w] = columns_at_most(limit, w * searched, end_, values_at);
    return set;
  }

  const T* cost(std::int64_t i) const { return costs_ + i * stride_; }

  Doubles reduced_at(std::int64_t i, std::int64_t j) const {
    return load(cost(i) + j) - load(price_ + j);
  }
  double reduced(std::int64_t i, std::int64_t j) const { return double(cost(i)[j]) - price_[j]; }

  void assign(std::int64_t i, std::int64_t j) {
    problem_.col4row[i] = j;
    problem_.row4col[j] = i;
    free_.remove(j);
  }

  // Sets one entry of an array, by rewriting the vector that holds it.
  static void set(double* values, std::int64_t j, double value) {
    double* const vector = values + j / lanes * lanes;
    const Mask here = lane_numbers() == j % lanes - Mask{};
    store(vector, here ? splat(value) : load(vector));
  }

  static Mask lane_numbers() {
    Mask numbers{};
    for (int lane = 0; lane < lanes; ++lane) numbers[lane] = lane;
    return numbers;
  }

  // Copies the costs, with columns at +inf up to a whole vector, and finds the rows' lowest.
  SmallOutcome read() {
    for (std::int64_t j = 0; j < end_; ++j) price_[j] = j < problem_.cols ? problem_.price[j] : 0.0;
    Mask bad{};
    bool feasible = true;
    for (std::int64_t i = 0; i < problem_.rows; ++i) {
      T* const row = costs_ + i * stride_;
      const T* const entries = problem_.entries + i * problem_.stride;
      for (std::int64_t j = 0; j < problem_.cols; ++j) row[j] = problem_.sign * entries[j];
      for (std::int64_t j = problem_.cols; j < end_; ++j) row[j] = T(infinity);
      Doubles low = splat(infinity);
      for (std::int64_t j = 0; j < end_; j += lanes) {
        const Doubles cost = load(row + j);
        bad |= ~(cost > splat(-infinity));  // NaN compares false too
        low = minimum(cost - load(price_ + j), low);
      }
      lowest_[i] = lowest_lane(low);
      feasible &= lowest_[i] < infinity;
    }
    return any(bad)   ? SmallOutcome::invalid_entry
           : feasible ? SmallOutcome::optimal
                      : SmallOutcome::infeasible;
  }

  // Keeps what is still tight of a warm start.
  void assign_tight() {
    for (std::int64_t i = 0; i < problem_.rows; ++i) {
      const std::int64_t j = problem_.warm[i];
      if (j < 0 || j >= problem_.cols || !free_.has(j) || reduced(i, j) > lowest_[i]) continue;
      assign(i, j);
      left_.remove(i);
    }
  }

  // Gives each row the first free one of its cheapest columns: constant costs give the identity.
  void assign_row_minima() {
    for (std::int64_t i = 0; i < problem_.rows; ++i) {
      const Set cheapest =
          free_ & at_most(lowest_[i], [&](std::int64_t j) { return reduced_at(i, j); });
      if (cheapest.empty()) continue;
      assign(i, cheapest.lowest());
      left_.remove(i);
    }
  }

  // Raises each column's price until the column is some row's best, and gives the column to that
  // row if both are free. Returns false where no row may have a column.
  bool reduce_columns() {
    double slack[largest];
    std::int64_t nearest[largest];
    for (std::int64_t j = 0; j < end_; j += lanes) {
      Doubles low = splat(infinity);
      Mask row{};
      for (std::int64_t i = 0; i < problem_.rows; ++i) {
        const Doubles above = load(cost(i) + j) - splat(lowest_[i]);
        row = above < low ? i - Mask{} : row;
        low = minimum(above, low);
      }
      store(slack + j, low);
      store(nearest + j, row);
    }
    for (std::int64_t j = 0; j < problem_.cols; ++j) {
      if (slack[j] == infinity) return false;
      price_[j] = slack[j];
      const std::int64_t i = nearest[j];
      if (!free_.has(j) || !left_.has(i)) continue;
      assign(i, j);
      lowest_[i] = reduced(i, j);
      left_.remove(i);
    }
    return true;
  }

  // Assigns row `start` along a shortest path to a free column; false when there is none. Lengths
  // are reduced costs less the row's lowest, so never negative. A closed column has an open price
  // of -inf and is never relaxed again: rounding could bend the predecessors into a loop.
  bool augment(std::int64_t start) {
    double distance[largest], open_price[largest], closed_at[largest];
    std::int64_t predecessor[largest], closed[largest];
    for (std::int64_t j = 0; j < end_; j += lanes) {
      store(distance + j, splat(infinity));
      store(open_price + j, load(price_ + j));
      store(predecessor + j, Mask{});
    }
    std::int64_t i = start, sink = none, count = 0;
    double offset = 0.0, lowest = infinity;
    for (;;) {
      const Doubles from = splat(offset);
      const Mask row = i - Mask{};
      Doubles low = splat(infinity);
      for (std::int64_t j = 0; j < end_; j += lanes) {
        const Doubles through = (load(cost(i) + j) - load(open_price + j)) + from;
        const Doubles before = load(distance + j);
        const Doubles after = minimum(through, before);
        store(distance + j, after);
        store(predecessor + j, through < before ? row : load_indices(predecessor + j));
        low = minimum(after, low);
      }
      lowest = lowest_lane(low);
      if (lowest == infinity) return false;
      const Set nearest = at_most(lowest, [&](std::int64_t j) { return load(distance + j); });
      if (const Set ends = nearest & free_; !ends.empty()) {
        sink = ends.lowest();
        break;
      }
      const std::int64_t j = nearest.lowest();
      i = problem_.row4col[j];
      offset = lowest - lowest_[i];
      closed[count] = j;
      closed_at[count++] = lowest;
      set(open_price, j, -infinity);
      set(distance, j, infinity);
    }
    for (std::int64_t j = sink; j != none;) {
      i = predecessor[j];
      const std::int64_t next = i == start ? none : problem_.col4row[i];
      assign(i, j);
      j = next;
    }
    lowest_[problem_.row4col[sink]] = reduced(problem_.row4col[sink], sink);
    for (std::int64_t k = 0; k < count; ++k) {
      const std::int64_t j = closed[k];
      // Where rounding makes a fall come out below zero, the price stays.
      price_[j] -= lowest > closed_at[k] ? lowest - closed_at[k] : 0.0;
      lowest_[problem_.row4col[j]] = reduced(problem_.row4col[j], j);
    }
    return true;
  }

  const SmallProblem<T>& problem_;
  T* const costs_;             // (rows, cols) times sign, rows `stride_` apart
  const std::int64_t stride_;  // columns at +inf make up whole vectors
  const std::int64_t end_;     // of the columns, in whole vectors
  Set free_, left_;            // columns without a row, rows without a column
  double price_[largest];
  double lowest_[largest];  // each row's lowest reduced cost: its column's, once it has one
};

template <typename T>
SmallOutcome solve_small(const SmallProblem<T>& problem) {
  if (problem.cols <= 64) return SmallSolver<T, 1>(problem).solve();
  if (problem.cols <= 128) return SmallSolver<T, 2>(problem).solve();
  if (problem.cols <= 192) return SmallSolver<T, 3>(problem).solve();
  return SmallSolver<T, 5>(problem).solve();
}
