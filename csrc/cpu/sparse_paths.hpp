#pragma once

#include <cstdint>
#include <vector>

#include "cpu/candidate_lists.hpp"
#include "cpu/dead_units.hpp"

namespace fastrebasin::cpu {

// Shortest augmenting paths over candidate lists. Where a list can't tell, its row is read again.
template <typename T>
class SparsePaths {
 public:
  // `equal` are the columns that the lists leave out: to a search they are one column, which is
  // free as long as one of them is. Of `dead` it needs to know which rows are constant.
  SparsePaths(Problem<T>& problem, CandidateLists<T>& lists, EqualColumns<T>& equal,
              const DeadUnits& dead)
      : problem_(problem),
        lists_(lists),
        equal_(equal),
        dead_(dead),
        columns_(problem.cols() + 1),
        seen_(problem.rows()) {}

  // Assigns row `start` along a shortest path; false when there is none.
  bool augment(std::int64_t start);

  // Rows read whole because even a new list couldn't tell.
  std::int64_t full_reads() const { return full_reads_; }

 private:
  struct Column {
    double distance;
    std::int64_t predecessor;
    std::int64_t search = 0;  // the search in which distance and predecessor were set
    std::int64_t closed = 0;  // the search in which the column was closed
  };

  // A column to close (node < cols), the equal columns (node = cols), or a row whose unlisted
  // columns may matter (node = cols + 1 + row).
  struct Event {
    double distance;
    std::int64_t node;
    bool operator<(const Event& other) const { return distance > other.distance; }  // min-heap
  };

  // What a search has seen of a row.
  enum class Seen : char { near, list, new_list };

  void push(double distance, std::int64_t node);
  Event pop();
  std::int64_t node(std::int64_t j) const { return equal_.holds(j) ? problem_.cols() : j; }
  bool is_free(std::int64_t node) const;
  double offset(std::int64_t i) const;
  void relax(std::int64_t i, std::int64_t node, double distance);
  void scan(std::int64_t i, double offset);
  auto relax_from(std::int64_t i, double offset) {
    return [this, i, offset](std::int64_t j, double reduced) { relax(i, j, offset + reduced); };
  }
  void look_later(std::int64_t i, double distance, Seen seen);
  void look_further(std::int64_t i);
  void close(const Event& event);
  void lower_prices();
  void flip();

  Problem<T>& problem_;
  CandidateLists<T>& lists_;
  EqualColumns<T>& equal_;
  const DeadUnits& dead_;
  std::vector<Column> columns_;  // the last is for the equal columns
  std::vector<Seen> seen_;       // of the rows that this search has reached
  std::vector<Event> heap_;
  std::vector<std::int64_t> closed_;
  std::int64_t search_ = 0, start_ = none, sink_ = none, free_equal_ = none;
  std::int64_t full_reads_ = 0;
  double shortest_ = infinity;
};

// Completes a partial assignment: augmenting row reduction, then shortest paths; when these read
// too many rows, whole rows take over (`complete_dense`). Returns false when one of the
// `unassigned` rows can't be assigned (infeasible).
template <typename T>
bool complete_sparse(Problem<T>& problem, CandidateLists<T>& lists, EqualColumns<T>& equal,
                     const DeadUnits& dead, std::vector<std::int64_t> unassigned);

// Gives each of `rows` its best column if that is free, and returns the others.
template <typename T>
std::vector<std::int64_t> assign_free_bests(Problem<T>& problem, CandidateLists<T>& lists,
                                            const std::vector<std::int64_t>& rows);

}  // namespace fastrebasin::cpu
