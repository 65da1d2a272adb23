#pragma once

#include <cstdint>
#include <vector>

#include "cpu/candidate_lists.hpp"

namespace fastrebasin::cpu {

// Shortest augmenting paths over candidate lists. Where a list can't tell, its row is read again.
template <typename T>
class SparsePaths {
 public:
  SparsePaths(Problem<T>& problem, CandidateLists<T>& lists)
      : problem_(problem), lists_(lists), columns_(problem.cols()), reread_(problem.rows(), 0) {}

  // Assigns row `start` along a shortest path; false when there is none.
  bool augment(std::int64_t start);

  // A free column that every row may end in, besides those of its list; `none` at first.
  void set_exit(std::int64_t col) { exit_ = col; }

  // Rows read whole because even a new list couldn't tell.
  std::int64_t full_reads() const { return full_reads_; }

 private:
  struct Column {
    double distance;
    std::int64_t predecessor;
    std::int64_t search = 0;  // the search in which distance and predecessor were set
    std::int64_t closed = 0;  // the search in which the column was closed
  };

  // A column to close (node < cols), or a row whose unlisted columns may matter (cols + row).
  struct Event {
    double distance;
    std::int64_t node;
    bool operator<(const Event& other) const { return distance > other.distance; }  // min-heap
  };

  void push(double distance, std::int64_t node);
  Event pop();
  double offset(std::int64_t i) const;
  void relax(std::int64_t i, std::int64_t j, double distance);
  void scan(std::int64_t i, double offset);
  void close(const Event& event);
  void consult_matrix(std::int64_t i, double distance);
  void flip();

  Problem<T>& problem_;
  CandidateLists<T>& lists_;
  std::vector<Column> columns_;
  std::vector<std::int64_t> reread_;  // the search in which a row was last listed anew
  std::vector<Event> heap_;
  std::vector<std::int64_t> closed_;
  std::int64_t search_ = 0, start_ = none, sink_ = none, exit_ = none;
  std::int64_t full_reads_ = 0;
  double shortest_ = infinity;
};

// Completes a partial assignment: augmenting row reduction, then shortest paths; when these read
// too many rows, whole rows take over (`complete_dense`). Returns false when one of the
// `unassigned` rows can't be assigned (infeasible). Means nothing when the problem was stopped.
template <typename T>
bool complete_sparse(Problem<T>& problem, CandidateLists<T>& lists,
                     std::vector<std::int64_t> unassigned);

// Gives each of `rows` its best column if that is free, and returns the others.
template <typename T>
std::vector<std::int64_t> assign_free_bests(Problem<T>& problem, CandidateLists<T>& lists,
                                            const std::vector<std::int64_t>& rows);

}  // namespace fastrebasin::cpu
