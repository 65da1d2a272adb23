// Linear assignment: NumPy arrays in and out.

#include "cpu/assignment.hpp"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <chrono>
#include <cstdint>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "cpu/assignment_batch.hpp"

namespace py = pybind11;
using namespace py::literals;
namespace cpu = fastrebasin::cpu;

namespace {

using Indices = py::array_t<std::int64_t>;
using Numbers = py::array_t<double>;
using AnyMatrix = std::variant<cpu::MatrixView<float>, cpu::MatrixView<double>>;

// Asks whether a signal is pending whose handler raised, as Ctrl-C's does; every ten milliseconds,
// because it may have to wait for the GIL.
class SignalPoll {
 public:
  bool operator()() {
    const Clock::time_point now = Clock::now();
    if (now - asked_ < std::chrono::milliseconds(10)) return false;
    asked_ = now;
    py::gil_scoped_acquire gil;
    return PyErr_CheckSignals() != 0;
  }

 private:
  using Clock = std::chrono::steady_clock;
  Clock::time_point asked_ = Clock::now();
};

const char* reason(cpu::AssignmentStatus status) {
  switch (status) {
    case cpu::AssignmentStatus::invalid_entry:
      return "matrix contains invalid numeric entries";
    case cpu::AssignmentStatus::infeasible:
      return "cost matrix is infeasible";
    default:
      throw py::error_already_set();  // interrupted: the signal's handler raised
  }
}

// The last two axes of an array as the core reads a matrix: float32 or float64 in native byte
// order, aligned, a whole number of entries apart. Nothing when the array is none.
template <typename T>
std::optional<cpu::MatrixView<T>> view_as(const py::array& array) {
  if (!py::isinstance<py::array_t<T>>(array)) return std::nullopt;
  const auto rows = array.ndim() - 2, cols = array.ndim() - 1;
  constexpr auto size = static_cast<py::ssize_t>(sizeof(T));
  const bool whole = reinterpret_cast<std::uintptr_t>(array.data()) % alignof(T) == 0 &&
                     array.strides(rows) % size == 0 && array.strides(cols) % size == 0;
  if (!whole) return std::nullopt;
  return cpu::MatrixView<T>{static_cast<const T*>(array.data()), array.shape(rows),
                            array.shape(cols), array.strides(rows) / size,
                            array.strides(cols) / size};
}

std::optional<AnyMatrix> view(const py::array& array) {
  if (const auto matrix = view_as<double>(array)) return *matrix;
  if (const auto matrix = view_as<float>(array)) return *matrix;
  return std::nullopt;
}

// An uninitialised vector. What array_t's own constructor does besides takes longer than to solve a
// small problem.
Indices empty_indices(py::ssize_t size) {
  auto& numpy = py::detail::npy_api::get();
  PyObject* descr = numpy.PyArray_DescrFromType_(py::dtype::num_of<std::int64_t>());
  PyObject* array = numpy.PyArray_NewFromDescr_(numpy.PyArray_Type_, descr, 1,
                                                reinterpret_cast<Py_intptr_t*>(&size), nullptr,
                                                nullptr, 0, nullptr);
  if (!array) throw py::error_already_set();
  return py::reinterpret_steal<Indices>(array);
}

// A problem smaller than this is solved sooner than the GIL is released and taken back.
constexpr std::int64_t smallest_released = 32 * 32;

template <typename T>
cpu::AssignmentStatus solve(const cpu::MatrixView<T>& cost, bool maximize, std::int64_t* col4row,
                            int threads) {
  const cpu::AssignmentResult result{col4row, nullptr, nullptr, nullptr, nullptr};
  if (cost.rows * cost.cols < smallest_released)
    return cpu::solve_assignment(cost, maximize, {}, result, [] { return false; });
  py::gil_scoped_release released;
  return cpu::solve_assignment(cost, maximize, {}, result, SignalPoll(), threads);
}

// (row_ind, col_ind) from the column of each row. Shape (min(rows, cols)) each.
py::tuple pairs(std::int64_t cols, Indices col4row) {
  const std::int64_t rows = col4row.shape(0), count = std::min(rows, cols);
  Indices row_ind = empty_indices(count);
  std::int64_t* row = row_ind.mutable_data();
  if (rows <= cols) {
    for (std::int64_t i = 0; i < rows; ++i) row[i] = i;
    return py::make_tuple(std::move(row_ind), std::move(col4row));
  }
  Indices col_ind = empty_indices(count);
  std::int64_t* col = col_ind.mutable_data();
  for (std::int64_t i = 0; i < rows; ++i) {
    if (col4row.data()[i] < 0) continue;
    *row++ = i;
    *col++ = col4row.data()[i];
  }
  return py::make_tuple(std::move(row_ind), std::move(col_ind));
}

// The pairs of one optimal assignment; None for anything but a matrix that can be read as it lies.
py::object linear_sum_assignment(py::handle cost, bool maximize, int threads) {
  if (!py::isinstance<py::array>(cost)) return py::none();
  const auto array = py::reinterpret_borrow<py::array>(cost);
  if (array.ndim() != 2) return py::none();
  const auto matrix = view(array);
  if (!matrix) return py::none();
  Indices col4row = empty_indices(array.shape(0));
  const auto status = std::visit(
      [&](const auto& m) { return solve(m, maximize, col4row.mutable_data(), threads); }, *matrix);
  if (status != cpu::AssignmentStatus::optimal) throw std::invalid_argument(reason(status));
  return pairs(array.shape(1), std::move(col4row));
}

// linear_sum_assignment(cost, maximize, threads) by Python's own calling convention: pybind11's
// takes longer than to solve a small problem.
PyObject* call_linear_sum_assignment(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
  try {
    if (count != 3) throw py::type_error("expected cost, maximize and threads");
    const int maximize = PyObject_IsTrue(arguments[1]);
    if (maximize < 0) return nullptr;
    const long threads = PyLong_AsLong(arguments[2]);
    if (PyErr_Occurred()) return nullptr;
    return linear_sum_assignment(arguments[0], maximize != 0, static_cast<int>(threads))
        .release()
        .ptr();
  } catch (py::error_already_set& error) {
    error.restore();
  } catch (const py::builtin_exception& error) {
    error.set_error();
  } catch (const std::bad_alloc& error) {
    PyErr_NoMemory();
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_ValueError, error.what());
  }
  return nullptr;
}

PyMethodDef fast_functions[] = {
    {"linear_sum_assignment",
     reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(call_linear_sum_assignment)),
     METH_FASTCALL, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

// Former results of a stack's problems, to start from: col4row (batch, n), col_duals (batch, n).
using WarmStack = std::pair<py::array_t<std::int64_t, py::array::c_style>,
                            py::array_t<double, py::array::c_style>>;

// What the core writes for a stack of matrices of one shape.
struct SolvedStack {
  SolvedStack(py::ssize_t batch, py::ssize_t rows, py::ssize_t cols)
      : col4row({batch, rows}),
        row_costs({batch, rows}),
        row_duals({batch, rows}),
        col_duals({batch, cols}),
        gap(batch) {}

  cpu::AssignmentResult at(py::ssize_t k) {
    return {col4row.mutable_data() + k * col4row.shape(1),
            row_costs.mutable_data() + k * row_costs.shape(1),
            row_duals.mutable_data() + k * row_duals.shape(1),
            col_duals.mutable_data() + k * col_duals.shape(1), gap.mutable_data() + k};
  }

  py::tuple as_tuple() const {
    return py::make_tuple(col4row, row_costs, row_duals, col_duals, gap);
  }

  py::array_t<std::int64_t> col4row;
  py::array_t<double> row_costs, row_duals, col_duals, gap;
};

cpu::WarmStart warm_start(const std::optional<WarmStack>& warm, const SolvedStack& solved,
                          py::ssize_t k) {
  if (!warm) return {nullptr, nullptr};
  const auto& [col4row, col_duals] = *warm;
  const auto batch = solved.col4row.shape(0), n = solved.col4row.shape(1);
  const auto fits = [&](const py::array& a) {
    return a.ndim() == 2 && a.shape(0) == batch && a.shape(1) == n;
  };
  if (!fits(col4row) || !fits(col_duals) || solved.col_duals.shape(1) != n)
    throw std::invalid_argument("warm must hold (batch, n) arrays, for square matrices only");
  return {col4row.data() + k * n, col_duals.data() + k * n};
}

// Adds the problems of one stack to a batch.
void append_tasks(const py::array& stack, const std::optional<WarmStack>& warm, SolvedStack& solved,
                  std::vector<cpu::AssignmentTask>& tasks) {
  const auto first = view(stack);
  if (!first || stack.strides(0) % stack.itemsize() != 0)
    throw std::invalid_argument("stacks must be aligned float32 or float64 arrays");
  for (py::ssize_t k = 0; k < stack.shape(0); ++k) {
    AnyMatrix matrix = *first;
    const py::ssize_t offset = k * stack.strides(0);
    std::visit([&](auto& m) { m.data += offset / static_cast<py::ssize_t>(sizeof(*m.data)); },
               matrix);
    tasks.push_back({matrix, warm_start(warm, solved, k), solved.at(k)});
  }
}

// Solves all matrices of all stacks (batch, rows, cols) as one batch. Returns None, or (index,
// reason) of the first matrix without a solution, counted over all stacks; and for each stack
// col4row, row_costs, row_duals, col_duals and gap.
py::tuple solve_assignments(const std::vector<py::array>& stacks,
                            const std::vector<std::optional<WarmStack>>& warm, bool maximize,
                            int threads) {
  if (stacks.size() != warm.size()) throw std::invalid_argument("one warm start for each stack");
  std::vector<SolvedStack> solved;
  std::vector<cpu::AssignmentTask> tasks;
  solved.reserve(stacks.size());
  for (std::size_t s = 0; s < stacks.size(); ++s) {
    const py::array& stack = stacks[s];
    if (stack.ndim() != 3) throw std::invalid_argument("stacks must have three axes");
    solved.emplace_back(stack.shape(0), stack.shape(1), stack.shape(2));
    append_tasks(stack, warm[s], solved.back(), tasks);
  }
  cpu::BatchOutcome outcome;
  {
    py::gil_scoped_release released;
    outcome = cpu::solve_assignments(tasks, maximize, threads, SignalPoll());
  }
  py::object failure = py::none();
  if (outcome.status != cpu::AssignmentStatus::optimal)
    failure = py::make_tuple(outcome.failed, reason(outcome.status));
  py::list results;
  for (const SolvedStack& stack : solved) results.append(stack.as_tuple());
  return py::make_tuple(failure, results);
}

}  // namespace

void register_assignment(py::module_& m) {
  if (PyModule_AddFunctions(m.ptr(), fast_functions) != 0) throw py::error_already_set();
  m.def("solve_assignments", &solve_assignments, "stacks"_a, "warm"_a, "maximize"_a, "threads"_a);
}
