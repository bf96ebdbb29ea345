// Groups the terms of a message for the loops of message.hpp.
#include <algorithm>
#include <tuple>

#include "tesseral/engine_atoms.hpp"

namespace tesseral {

std::string message_fault(const std::vector<MessageTerm>& terms, int n_paths, int n_harmonics, int n_outputs,
                          int n_components) {
  const auto outside = [](int32_t index, int bound) { return index < 0 || index >= bound; };
  for (std::size_t n = 0; n < terms.size(); ++n) {
    const MessageTerm& term = terms[n];
    const std::string name = "terms[" + std::to_string(n) + "]";
    if (outside(term.path, n_paths)) {
      return name + " names path " + std::to_string(term.path) + ", but weights have " + std::to_string(n_paths);
    }
    if (outside(term.out, n_outputs)) {
      return name + " names output " + std::to_string(term.out) + ", but there are " + std::to_string(n_outputs);
    }
    if (outside(term.harmonic, n_harmonics)) {
      return name + " names harmonic " + std::to_string(term.harmonic) + ", but angular has " + std::to_string(n_harmonics) +
             " components";
    }
    if (outside(term.component, n_components)) {
      return name + " names component " + std::to_string(term.component) + " of h, which has " +
             std::to_string(n_components);
    }
    const auto key = [](const MessageTerm& t) { return std::tuple(t.path, t.component, t.out); };
    if (n > 0 && key(term) < key(terms[n - 1])) {
      return "terms must be sorted by path, component of h and output component: " + name + " comes too late";
    }
  }
  return "";
}

template <class T>
MessageTable<T>::MessageTable(const std::vector<MessageTerm>& sorted, const double* couplings, int n_paths)
    : path_rows(static_cast<std::size_t>(n_paths) + 1, 0) {
  for (std::size_t n = 0; n < sorted.size(); ++n) {
    const MessageTerm& term = sorted[n];
    const bool same_path = n > 0 && sorted[n - 1].path == term.path;
    const bool same_row = same_path && sorted[n - 1].component == term.component;
    if (!same_row) {
      rows.push_back({term.component, static_cast<int32_t>(entries.size()), 0});
      ++path_rows[static_cast<std::size_t>(term.path) + 1];
    }
    if (!same_row || sorted[n - 1].out != term.out) entries.push_back({term.out, static_cast<int32_t>(n), 0});
    terms.push_back({term.harmonic, static_cast<T>(couplings[n])});
    entries.back().last_term = static_cast<int32_t>(terms.size());
    rows.back().last_entry = static_cast<int32_t>(entries.size());
  }
  for (std::size_t p = 1; p < path_rows.size(); ++p) path_rows[p] += path_rows[p - 1];
}

template <class T>
CouplingTable<T>::CouplingTable(const MessageTable<T>& table) : terms(table.terms) {
  for (std::size_t p = 0; p + 1 < table.path_rows.size(); ++p) {
    const int32_t first = table.path_rows[p], last = table.path_rows[p + 1];
    int32_t least = INT32_MAX, most = -1;
    for (int32_t r = first; r < last; ++r) {
      const auto& row = table.rows[static_cast<std::size_t>(r)];
      for (int32_t n = row.first_entry; n < row.last_entry; ++n) {
        least = std::min(least, table.entries[static_cast<std::size_t>(n)].out);
        most = std::max(most, table.entries[static_cast<std::size_t>(n)].out);
      }
    }
    const int32_t n_outs = first < last ? most - least + 1 : 0;
    paths.push_back({first < last ? least : 0, n_outs, first, last});
    for (int32_t r = first; r < last; ++r) {
      const auto& row = table.rows[static_cast<std::size_t>(r)];
      rows.push_back({row.component, static_cast<int32_t>(entries.size())});
      entries.resize(entries.size() + static_cast<std::size_t>(n_outs), Entry{0, 0});
      for (int32_t n = row.first_entry; n < row.last_entry; ++n) {
        const auto& entry = table.entries[static_cast<std::size_t>(n)];
        entries[static_cast<std::size_t>(rows.back().first_entry + entry.out - least)] = {entry.first_term, entry.last_term};
      }
    }
  }
}

template struct MessageTable<float>;
template struct MessageTable<double>;
template struct CouplingTable<float>;
template struct CouplingTable<double>;

}  // namespace tesseral
