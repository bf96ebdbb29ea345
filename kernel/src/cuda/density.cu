// The neighbour density of atoms.
//
// A group of 8, 16 or 32 lanes of a warp works on an atom (with very many outputs: on some of an atom's). Of a batch of its
// edges each lane works out the radial functions and harmonics of one and puts them into shared memory, where [q, edge] and
// [lm, edge] are rows of the warp. Then each lane adds their products to its tile of 4 x 4 outputs (q, lm), which stay in
// registers; where there are more lanes than tiles, several lanes share a tile and take a part of the edges each. Several
// species: the edges are queued by species, and the outputs of a species are written when the first edge of the next one
// comes.
#include "geometry.hpp"
#include "species_queue.hpp"
#include "tesseral/radial.hpp"

namespace tesseral::cuda {

// density_gradient.cu
template <class T>
void density_gradient(const DensityOptions<T>&, const Edges<T>&, const T* G, Range atoms, T* out);

namespace {

constexpr int tile = 4;            // outputs of a lane: tile x tile
constexpr int most_threads = 128;  // of a block

/// Blocks that shall fit on a multiprocessor (0: as registers allow).
template <class V, bool many_species>
constexpr int blocks_at_once = sizeof(V) == sizeof(float) && !many_species ? 6 : 0;

/// How the work is divided. Tile n of an atom has the outputs q = n / lm_tiles + a q_tiles and lm = n % lm_tiles + b
/// lm_tiles with a, b < tile.
struct Plan {
  int q_tiles, lm_tiles;
  int tiles = 1;                         // places for tiles in a group, a power of two
  int lanes;                             // of a group; lanes / tiles of them share a tile
  int chunks;                            // groups of an atom
  int batch;                             // edges of a group in shared memory at once, at most one per lane, and whole Words
  int row;                               // of shared memory, in numbers
  int queue;                             // places in the queue of a group, a power of two
  int shared_bytes;                      // of a warp
  int warps = most_threads / warp_size;  // of a block
  int64_t n_blocks;
};

template <class T, class V>
Plan plan_density(const DensityOptions<T>& options, int64_t n_atoms) {
  Plan plan;
  plan.q_tiles = (options.radial.n_radial + tile - 1) / tile;
  plan.lm_tiles = (harmonics_of<any_l>(options.harmonics.l_max) + tile - 1) / tile;
  const int n_tiles = plan.q_tiles * plan.lm_tiles;
  while (plan.tiles < n_tiles && plan.tiles < warp_size) plan.tiles *= 2;
  plan.lanes = lanes_of_group(n_atoms, plan.tiles < 8 ? 8 : plan.tiles);
  plan.chunks = (n_tiles + plan.tiles - 1) / plan.tiles;
  const int groups = warp_size / plan.lanes;
  plan.queue = options.n_species > 1 ? 4 * plan.lanes : 0;
  constexpr int word = Words<V>::count;
  for (plan.batch = plan.lanes;; plan.batch /= 2) {
    plan.row = plan.batch * groups + word;
    plan.shared_bytes = tile * (plan.q_tiles + plan.lm_tiles) * plan.row * static_cast<int>(sizeof(V)) +
                        groups * plan.queue * 2 * static_cast<int>(sizeof(int));
    if (static_cast<std::size_t>(plan.shared_bytes) <= most_shared_bytes || plan.batch <= word) break;
  }
  while (plan.warps > 1 && static_cast<std::size_t>(plan.warps * plan.shared_bytes) > usual_shared_bytes) plan.warps /= 2;
  plan.n_blocks = blocks_for(n_atoms, groups * plan.warps) * plan.chunks;
  return plan;
}

/// sum += x y, of duals the tangent.
template <class T>
__device__ inline void add_product(T& sum, const T& x, const T& y) {
  sum += x * y;
}
template <class T>
__device__ inline void add_product(T& sum, const Dual<T>& x, const Dual<T>& y) {
  sum += x.value * y.tangent;
  sum += x.tangent * y.value;
}

/// The outputs of a lane, of one species at a time.
template <class T, class V>
class Tile {
 public:
  /// `R` and `Y`: rows of shared memory at the first edge of the group. A tile beyond the last one is as good as the first.
  __device__ Tile(const Plan& plan, int number, int n_harmonics, const V* R, const V* Y)
      : plan_(plan),
        exists_(number < plan.q_tiles * plan.lm_tiles),
        q_(exists_ ? number / plan.lm_tiles : 0),
        lm_(exists_ ? number % plan.lm_tiles : 0),
        n_harmonics_(n_harmonics),
        R_(R + q_ * plan.row),
        Y_(Y + lm_ * plan.row) {
    clear();
  }

  /// Adds the products of the edges first, first + step, ... < end, each with the next ones of the same Words.
  __device__ void add(int first, int end, int step) {
    for (int e = first; e < end; e += step) {
      Words<V> r[tile], y[tile];
      for (int a = 0; a < tile; ++a) r[a] = words(R_ + a * plan_.q_tiles * plan_.row + e);
      for (int b = 0; b < tile; ++b) y[b] = words(Y_ + b * plan_.lm_tiles * plan_.row + e);
      for (int n = 0; n < Words<V>::count; ++n) {
        for (int a = 0; a < tile; ++a) {
          for (int b = 0; b < tile; ++b) add_product(sums_[a][b], r[a].of[n], y[b].of[n]);
        }
      }
    }
  }

  /// Sums over the lanes that share a tile; all lanes of the warp call it.
  __device__ void sum_parts() {
    for (int offset = plan_.tiles; offset < plan_.lanes; offset *= 2) {
      for (int a = 0; a < tile; ++a) {
        for (int b = 0; b < tile; ++b) sums_[a][b] += __shfl_xor_sync(all_lanes, sums_[a][b], offset);
      }
    }
  }

  /// Writes the sums to the rows [Q, LM] of a species and starts again.
  __device__ void write(int n_radial, T* rows) {
    for (int a = 0; a < tile; ++a) {
      for (int b = 0; b < tile; ++b) {
        const int q = q_ + a * plan_.q_tiles, lm = lm_ + b * plan_.lm_tiles;
        if (exists_ && q < n_radial && lm < n_harmonics_) rows[q * n_harmonics_ + lm] = sums_[a][b];
      }
    }
    clear();
  }

 private:
  const Plan& plan_;
  bool exists_;
  int q_, lm_, n_harmonics_;
  const V *R_, *Y_;
  T sums_[tile][tile];

  __device__ void clear() {
    for (int a = 0; a < tile; ++a) {
      for (int b = 0; b < tile; ++b) sums_[a][b] = T(0);
    }
  }
  static __device__ const Words<V>& words(const V* source) { return *reinterpret_cast<const Words<V>*>(source); }
};

/// Radial functions and harmonics of an edge; of an absent one, those of a neighbour beyond the cutoff.
template <class T, class V, int L>
__device__ inline void put_edge(const DensityOptions<T>& options, const Edges<T>& edges, int64_t e, bool exists, Column<V> R,
                                Column<V> Y) {
  const V beyond = constant<V>(T(2) * options.radial.cutoff), zero = constant<V>(0);
  const auto unit = exists ? direction_of<V>(edges.vectors, edges.tangents, e) : Direction<V>(beyond, zero, zero);
  Harmonics<V, L>(options.harmonics, unit.x, unit.y, unit.z).values(Y);
  radial_functions(options.radial, unit.length, exists && edges.tables ? edges.tables + e : nullptr, R, Unwanted());
}

template <class T, class V, int L, bool many_species>
__global__ void __launch_bounds__(most_threads, blocks_at_once<V, many_species>)
    densities(const __grid_constant__ DensityOptions<T> options, const Edges<T> edges, Range atoms,
              const __grid_constant__ Plan plan, T* out) {
  constexpr int word = Words<V>::count;
  const int n_radial = options.radial.n_radial, n_harmonics = harmonics_of<L>(options.harmonics.l_max);
  const int lane = static_cast<int>(threadIdx.x) % warp_size, warp = static_cast<int>(threadIdx.x) / warp_size;
  const int group = lane / plan.lanes, own = lane % plan.lanes, part = own / plan.tiles;
  const int groups = warp_size / plan.lanes, chunk = static_cast<int>(blockIdx.x) % plan.chunks;
  const int64_t i =
      atoms.begin + static_cast<int64_t>(blockIdx.x / plan.chunks) * (plan.warps * groups) + warp * groups + group;
  const int64_t begin = i < atoms.end ? edges.first[i] : 0;
  const int n_edges = i < atoms.end ? static_cast<int>(edges.first[i + 1] - begin) : 0;

  unsigned char* memory = shared_memory<unsigned char>() + warp * plan.shared_bytes;
  V* R = reinterpret_cast<V*>(memory) + group * plan.batch;
  V* Y = R + tile * plan.q_tiles * plan.row;
  Tile<T, V> sums(plan, chunk * plan.tiles + own % plan.tiles, n_harmonics, R, Y);
  const Column<V> own_R{R + own, plan.row}, own_Y{Y + own, plan.row};

  int species = 0, n_written = 0;
  const auto go_on_to = [&](int next) {  // all species before it are complete
    for (; n_written < next; ++n_written) {
      if (i < atoms.end && part == 0) {
        sums.write(n_radial, out + (i * options.n_species + n_written) * n_radial * n_harmonics);
      }
    }
    species = next;
  };
  if constexpr (many_species) {
    int* places = reinterpret_cast<int*>(Y + tile * plan.lm_tiles * plan.row - group * plan.batch) + 2 * group * plan.queue;
    SpeciesQueue queue(places, plan.queue, edges.neighbor_species + begin, n_edges, options.n_species, plan.lanes);
    for (queue.fill(plan.batch, word); __ballot_sync(all_lanes, queue.count() > 0) != 0;) {
      const int count = queue.count() < plan.batch ? queue.count() : plan.batch;
      if (own < plan.batch && count > 0) {
        const int edge = own < count ? queue.edge(own) : SpeciesQueue::absent;
        put_edge<T, V, L>(options, edges, begin + edge, edge != SpeciesQueue::absent, own_R, own_Y);
      }
      __syncwarp();
      for (int e = 0; e < count && part == 0; e += word) {
        if (queue.species(e) != species) go_on_to(queue.species(e));
        sums.add(e, e + word, word);
      }
      __syncwarp();
      queue.remove(count);
      queue.fill(plan.batch, word);
    }
  } else {
    const int parts = plan.lanes / plan.tiles;
    for (int first = 0; __ballot_sync(all_lanes, first < n_edges) != 0; first += plan.batch) {
      const int count = n_edges - first < plan.batch ? n_edges - first : plan.batch;
      if (own < plan.batch && count > 0) {
        put_edge<T, V, L>(options, edges, begin + first + own, own < count, own_R, own_Y);
      }
      __syncwarp();
      sums.add(part * word, count, parts * word);
      __syncwarp();
    }
    sums.sum_parts();
  }
  go_on_to(options.n_species);
}

template <class T, class V>
void density_of_atoms(const DensityOptions<T>& options, const Edges<T>& edges, Range atoms, T* out) {
  const Plan plan = plan_density<T, V>(options, atoms.end - atoms.begin);
  const auto shared_bytes = static_cast<std::size_t>(plan.warps) * static_cast<std::size_t>(plan.shared_bytes);
  with_l_max(options.harmonics.l_max, [&](auto l) {
    constexpr int L = decltype(l)::value;
    launch(options.n_species > 1 ? densities<T, V, L, true> : densities<T, V, L, false>, plan.n_blocks,
           plan.warps * warp_size, shared_bytes, options, edges, atoms, plan, out);
  });
}

template <class T>
void density(const DensityOptions<T>& options, const Edges<T>& edges, Range atoms, T* out) {
  if (edges.tangents) return density_of_atoms<T, Dual<T>>(options, edges, atoms, out);
  density_of_atoms<T, T>(options, edges, atoms, out);
}

}  // namespace

template <class T>
void add_density(Kernels<T>& kernels) {
  kernels.density = density<T>;
  kernels.density_gradient = density_gradient<T>;
}
TESSERAL_INSTANTIATE(add_density)

}  // namespace tesseral::cuda
