// One warp works on one center; its lanes take the edges in turn.
#include <algorithm>

#include "engine_edges.hpp"
#include "kernels.hpp"
#include "scan.hpp"
#include "tesseral/repulsion.hpp"

namespace tesseral::cuda {
namespace {

constexpr int threads = 128, warps = threads / warp_size;

/// What `find` reads.
struct Listed {
  int64_t n_centers;
  const double* positions;
  const unsigned char* absent;
  const int64_t* first;
  const int32_t* neighbors;
  const double* shifts;
};

__device__ inline int64_t center_of_warp() {
  return global_thread() / warp_size;
}
__device__ inline int lane_of_thread() {
  return static_cast<int>(threadIdx.x % warp_size);
}

/// Vector and neighbour of listed edge e of center i; whether it is within the cutoff. A distance that is not a number is,
/// so that it shows in the results.
__device__ inline bool find(const Listed& list, int64_t i, int64_t e, double cutoff2, double (&d)[3], double& distance2,
                            int64_t& j) {
  j = list.neighbors[e];
  for (int axis = 0; axis < 3; ++axis) {
    d[axis] = list.positions[3 * j + axis] - list.positions[3 * i + axis];
    if (list.shifts) d[axis] += list.shifts[3 * e + axis];
  }
  distance2 = d[0] * d[0] + d[1] * d[1] + d[2] * d[2];
  return !list.absent[j] && !(distance2 >= cutoff2);
}

/// Number of edges of each center within the cutoff, into first[i]; and whether one is too short.
__global__ void count_edges(Listed list, double cutoff, int64_t* first, unsigned char* on_top) {
  const int64_t i = center_of_warp();
  if (i >= list.n_centers) return;
  int count = 0;
  unsigned close = 0;
  if (!list.absent[i]) {
    for (int64_t e = list.first[i] + lane_of_thread(); e < list.first[i + 1]; e += warp_size) {
      double d[3], distance2;
      int64_t j;
      if (!find(list, i, e, cutoff * cutoff, d, distance2, j)) continue;
      ++count;
      close |= distance2 < shortest_distance * shortest_distance;
    }
  }
  count = warp_sum(count);
  close = __ballot_sync(all_lanes, close != 0);
  if (lane_of_thread() > 0) return;
  first[i] = count;
  on_top[i] = close != 0;
}

template <class T>
struct Taken {
  const int64_t* first;
  int64_t *neighbors, *neighbor_species, *tables;
  T *vectors, *distances;

  __device__ void set(int64_t e, int64_t neighbor, int64_t species, int64_t table, const double (&d)[3]) const {
    neighbors[e] = neighbor;
    neighbor_species[e] = species;
    tables[e] = table;
    const T x = static_cast<T>(d[0]), y = static_cast<T>(d[1]), z = static_cast<T>(d[2]);
    vectors[3 * e] = x;
    vectors[3 * e + 1] = y;
    vectors[3 * e + 2] = z;
    distances[e] = sqrt(x * x + y * y + z * z);
  }
};

template <class T>
__global__ void fill_edges(Listed list, double cutoff, const int64_t* species, int n_species, Taken<T> out) {
  const int64_t i = center_of_warp();
  if (i >= list.n_centers || list.absent[i]) return;
  int64_t place = out.first[i];
  for (int64_t begin = list.first[i]; begin < list.first[i + 1]; begin += warp_size) {
    const int64_t e = begin + lane_of_thread();
    double d[3], distance2;
    int64_t j = 0;
    const bool taken = e < list.first[i + 1] && find(list, i, e, cutoff * cutoff, d, distance2, j);
    const unsigned votes = __ballot_sync(all_lanes, taken);
    if (taken) {
      const int64_t own = place + __popc(votes & ((1u << lane_of_thread()) - 1));
      out.set(own, j, species[j], species[i] * n_species + species[j], d);
    }
    place += __popc(votes);
  }
}

/// The places beyond the last edge.
template <class T>
__global__ void fill_rest(int64_t n_centers, int64_t listed, double beyond, Taken<T> out) {
  const int64_t e = out.first[n_centers] + global_thread();
  if (e < listed) out.set(e, 0, 0, 0, {beyond, 0, 0});
}

template <class T>
__global__ void add(int64_t size, const T* more, T* total) {
  const int64_t n = global_thread();
  if (n < size) total[n] += more[n];
}

template <class T>
__global__ void radial_gradients(int64_t n_edges, int n_radial, const T* by_radial, const T* slopes, const T* vectors,
                                 const T* distances, T* gradients) {
  const int64_t e = global_thread();
  if (e >= n_edges) return;
  T sum = 0;
  for (int q = 0; q < n_radial; ++q) sum += by_radial[e * n_radial + q] * slopes[e * n_radial + q];
  const T per_length = sum / distances[e];
  for (int axis = 0; axis < 3; ++axis) gradients[3 * e + axis] += per_length * vectors[3 * e + axis];
}

template <class T>
__global__ void repulsions(int64_t n_centers, const int64_t* first, const int64_t* species, const int64_t* neighbor_species,
                           int n_species, Repulsion options, PairTables<T> pairs, const T* vectors, const T* distances,
                           T* gradients, double* energies) {
  const int64_t i = center_of_warp();
  if (i >= n_centers) return;
  double sum = 0;
  for (int64_t e = first[i] + lane_of_thread(); e < first[i + 1]; e += warp_size) {
    const int64_t pair = species[i] * n_species + neighbor_species[e];
    const T r = distances[e];
    if (r >= pairs.outer[pair]) continue;
    T energy, slope;
    repulsion(r, pairs.strength[pair], pairs.inverse_screening[pair], pairs.outer[pair], options, energy, slope);
    sum += static_cast<double>(energy);
    for (int axis = 0; axis < 3; ++axis) gradients[3 * e + axis] += slope / r * vectors[3 * e + axis];
  }
  sum = warp_sum(sum);
  if (lane_of_thread() == 0) energies[i] += sum;
}

/// F_i += g_ij, F_j -= g_ij; the virial r_ij (x) g_ij goes to i, and once more to j.
template <class T, class Sum>
__global__ void sum_forces(int64_t n_centers, const int64_t* first, const int64_t* neighbors, const T* vectors,
                           const T* gradients, Sum* forces, double* virials, Sum* neighbor_virials) {
  const int64_t i = center_of_warp();
  if (i >= n_centers) return;
  Sum force[3] = {}, virial[9] = {};
  for (int64_t e = first[i] + lane_of_thread(); e < first[i + 1]; e += warp_size) {
    const int64_t j = neighbors[e];
    for (int axis = 0; axis < 3; ++axis) {
      const Sum g = static_cast<Sum>(gradients[3 * e + axis]);
      force[axis] += g;
      atomicAdd(&forces[3 * j + axis], -g);
      for (int other = 0; other < 3; ++other) {
        const Sum part = static_cast<Sum>(vectors[3 * e + other]) * g;
        virial[3 * other + axis] += part;
        if (neighbor_virials) atomicAdd(&neighbor_virials[9 * j + 3 * other + axis], part);
      }
    }
  }
  for (int axis = 0; axis < 3; ++axis) {
    const Sum total = warp_sum(force[axis]);
    if (lane_of_thread() == 0) atomicAdd(&forces[3 * i + axis], total);
  }
  if (!virials) return;
  for (int n = 0; n < 9; ++n) {
    const Sum total = warp_sum(virial[n]);
    if (lane_of_thread() == 0) virials[9 * i + n] = static_cast<double>(total);
  }
}

}  // namespace

namespace {

/// Whether the caller's rows are one after the other in arrays that can be copied as they are.
bool in_one_piece(const EngineInput& input, const std::vector<int64_t>& bounds, bool shifted) {
  if (input.index_bits != EngineInput::all_index_bits) return false;
  const NeighborRow& start = input.rows[0];
  for (int64_t i = 0; i < input.n_centers; ++i) {
    const NeighborRow& row = input.rows[i];
    const int64_t begin = bounds[static_cast<std::size_t>(i)];
    if (row.first_atom != 0 || row.neighbors != start.neighbors + begin) return false;
    if (shifted && row.shifts != start.shifts + 3 * begin) return false;
  }
  return true;
}

}  // namespace

void DeviceList::upload(const EngineInput& input, DeviceAtoms& atoms) {
  const bool given = input.rows || input.n_centers == 0;
  if (!given && (!found || first.size() != static_cast<std::size_t>(input.n_centers) + 1)) {
    throw std::invalid_argument("Engine.compute: there is no neighbour list of " + std::to_string(input.n_centers) +
                                " atoms on the device");
  }
  const auto n_atoms = static_cast<std::size_t>(input.n_atoms);
  std::vector<int64_t> species(n_atoms);
  std::vector<unsigned char> absent(n_atoms);
  for (std::size_t i = 0; i < n_atoms; ++i) {
    absent[i] = input.species[i] == EngineInput::absent;
    species[i] = absent[i] ? 0 : input.species[i];
  }
  atoms.species.upload(species.data(), species.size());
  atoms.absent.upload(absent.data(), absent.size());
  if (!given) return;
  found = false;
  std::vector<int64_t> bounds(static_cast<std::size_t>(input.n_centers) + 1, 0);
  bool shifted = false;
  for (int64_t i = 0; i < input.n_centers; ++i) {
    const auto n = static_cast<std::size_t>(i);
    bounds[n + 1] = bounds[n] + input.rows[i].count;
    shifted = shifted || input.rows[i].shifts;
  }
  listed = bounds.back();
  first.upload(bounds.data(), bounds.size());
  if (listed > 0 && in_one_piece(input, bounds, shifted)) {
    neighbors.upload(input.rows[0].neighbors, static_cast<std::size_t>(listed));
    shifts.upload(input.rows[0].shifts, shifted ? 3 * static_cast<std::size_t>(listed) : 0);
  } else {
    upload_rows(input, bounds, shifted);
  }
}

void DeviceList::upload_rows(const EngineInput& input, const std::vector<int64_t>& bounds, bool shifted) {
  host_neighbors_.resize(static_cast<std::size_t>(listed));
  host_shifts_.resize(shifted ? 3 * static_cast<std::size_t>(listed) : 0);
  for (int64_t i = 0; i < input.n_centers; ++i) {
    const NeighborRow& row = input.rows[i];
    const int64_t begin = bounds[static_cast<std::size_t>(i)];
    int32_t* indices = host_neighbors_.data() + begin;
    for (int32_t e = 0; e < row.count; ++e) indices[e] = row.first_atom + (row.neighbors[e] & input.index_bits);
    if (!shifted) continue;
    double* vectors = host_shifts_.data() + 3 * begin;
    if (row.shifts) {
      std::copy_n(row.shifts, 3 * int64_t{row.count}, vectors);
    } else {
      std::fill_n(vectors, 3 * int64_t{row.count}, 0.0);
    }
  }
  neighbors.upload(host_neighbors_.data(), host_neighbors_.size());
  shifts.upload(host_shifts_.data(), host_shifts_.size());
}

template <class T>
void DeviceEdges<T>::take(const DeviceAtoms& atoms, const DeviceList& list, T cutoff, int n_species) {
  const auto listed = static_cast<std::size_t>(list.listed);
  first.resize(static_cast<std::size_t>(atoms.n_centers) + 1);
  for (auto* array : {&neighbors, &neighbor_species, &tables}) array->resize(listed);
  vectors.resize(3 * listed);
  gradients.resize(3 * listed);
  distances.resize(listed);
  const int64_t n = atoms.n_centers;
  if (n == 0) return first.fill_zero();
  const Listed given{n,
                     atoms.positions.data(),
                     atoms.absent.data(),
                     list.first.data(),
                     list.neighbors.data(),
                     list.shifts.size() > 0 ? list.shifts.data() : nullptr};
  const auto wide_cutoff = static_cast<double>(cutoff);
  launch(count_edges, blocks_for(n, warps), threads, 0, given, wide_cutoff, first.data(),
         const_cast<unsigned char*>(atoms.on_top.data()));
  scan(first.data(), n, block_sums_);
  const Taken<T> out{first.data(),  neighbors.data(), neighbor_species.data(),
                     tables.data(), vectors.data(),   distances.data()};
  launch(fill_edges<T>, blocks_for(n, warps), threads, 0, given, wide_cutoff, atoms.species.data(), n_species, out);
  launch(fill_rest<T>, blocks_for(list.listed, threads), threads, 0, n, list.listed, 2 * wide_cutoff, out);
}

template <class T>
void DeviceEdges<T>::add_gradients(const DeviceArray<T>& more) {
  const auto size = static_cast<int64_t>(gradients.size());
  launch(add<T>, blocks_for(size, threads), threads, 0, size, more.data(), gradients.data());
}

template <class T>
void DeviceEdges<T>::add_radial_gradients(const DeviceArray<T>& by_radial, const DeviceArray<T>& slopes, int n_radial) {
  const auto n_edges = static_cast<int64_t>(distances.size());
  launch(radial_gradients<T>, blocks_for(n_edges, threads), threads, 0, n_edges, n_radial, by_radial.data(), slopes.data(),
         vectors.data(), distances.data(), gradients.data());
}

template <class T>
void DeviceEdges<T>::add_repulsion(const DeviceAtoms& atoms, const Repulsion& options, const PairTables<T>& pairs,
                                   int n_species, double* energies) {
  launch(repulsions<T>, blocks_for(atoms.n_centers, warps), threads, 0, atoms.n_centers, first.data(), atoms.species.data(),
         neighbor_species.data(), n_species, options, pairs, vectors.data(), distances.data(), gradients.data(), energies);
}

template <class T>
template <class Sum>
void DeviceEdges<T>::add_forces(const DeviceAtoms& atoms, Sum* forces, double* virials, Sum* neighbor_virials) const {
  launch(sum_forces<T, Sum>, blocks_for(atoms.n_centers, warps), threads, 0, atoms.n_centers, first.data(), neighbors.data(),
         vectors.data(), gradients.data(), forces, virials, neighbor_virials);
}

template class DeviceEdges<float>;
template class DeviceEdges<double>;
template void DeviceEdges<float>::add_forces(const DeviceAtoms&, float*, double*, float*) const;
template void DeviceEdges<float>::add_forces(const DeviceAtoms&, double*, double*, double*) const;
template void DeviceEdges<double>::add_forces(const DeviceAtoms&, double*, double*, double*) const;

}  // namespace tesseral::cuda
