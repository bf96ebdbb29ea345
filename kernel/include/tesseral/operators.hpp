// Public interface of the compiled kernel's operators: plain arrays in, plain arrays out, no torch.
//
// Arrays are row-major. Symbols: N atoms, E edges sorted by center, S species, Q radial functions, C = S*Q,
// LM = (l_max+1)^2, K channels. Every operator comes as value, vector-Jacobian product ("gradient") and the
// directional derivative of both ("tangent"), from which derivatives of the gradient follow.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace tesseral {

constexpr int max_l = 8;
constexpr int max_harmonics = (max_l + 1) * (max_l + 1);
constexpr int max_radial = 128;
constexpr int max_spline_powers = 8;
constexpr int max_order = 4;

/// Constants of the recursions for real spherical harmonics, orthonormal on the unit sphere, no Condon-Shortley phase.
/// With (x + iy)^m = C_m + i S_m and F_lm(z) proportional to the m-th derivative of the Legendre polynomial P_l:
/// Y_{l,m} = F_lm C_m, Y_{l,-m} = F_lm S_m for m >= 0.
template <class T>
struct HarmonicConstants {
  int l_max;
  T diagonal[max_l + 1];         // F_mm
  T rise[max_l + 1][max_l + 1];  // F_lm = rise[l][m] z F_{l-1,m} - drop[l][m] F_{l-2,m}
  T drop[max_l + 1][max_l + 1];
  T slope[max_l + 1][max_l + 1];  // dF_lm/dz = slope[l][m] F_{l,m+1}
  explicit HarmonicConstants(int l_max = 0);
};

enum class RadialKind { bessel, chebyshev, gaussian, spline };

/// Radial functions R_q(r), q < n_radial, zero from the cutoff on; the first two derivatives vanish there too.
template <class T>
struct RadialBasis {
  RadialKind kind = RadialKind::bessel;
  int n_radial = 0;
  T cutoff = 0;
  // spline: [n_tables, n_intervals, n_powers, table_row] coefficients of polynomials in 0 <= t < 1, lowest power first, made
  // by spline_table; a row holds the functions, padded to whole packs
  const T* table = nullptr;
  int n_tables = 1, n_intervals = 0, n_powers = 0, table_row = 0;
};

/// Rows of functions are padded to this many numbers, a multiple of every pack's lanes.
constexpr int padded_table_row(int n_radial) {
  return (n_radial + 15) / 16 * 16;
}

/// A table as RadialBasis takes it, from one [n_pieces, n_radial, n_powers] as files have it.
template <class T, class Number>
std::vector<T> spline_table(const Number* pieces, int64_t n_pieces, int n_radial, int n_powers) {
  const int64_t row = padded_table_row(n_radial);
  std::vector<T> out(static_cast<std::size_t>(n_pieces * n_powers * row), T(0));
  for (int64_t piece = 0; piece < n_pieces; ++piece) {
    for (int64_t q = 0; q < n_radial; ++q) {
      for (int64_t power = 0; power < n_powers; ++power) {
        out[static_cast<std::size_t>((piece * n_powers + power) * row + q)] =
            static_cast<T>(pieces[(piece * n_radial + q) * n_powers + power]);
      }
    }
  }
  return out;
}

template <class T>
struct DensityOptions {
  int n_species = 0;
  RadialBasis<T> radial;
  HarmonicConstants<T> harmonics;
};

/// Edges of the atoms [0, n): those of atom i are first[i] .. first[i+1]-1.
template <class T>
struct Edges {
  const T* vectors;                 // [E, 3]
  const T* tangents;                // [E, 3] direction of a derivative, or null
  const int64_t* first;             // [N+1]
  const int64_t* neighbor_species;  // [E]
  const int64_t* tables = nullptr;  // [E] spline table of each edge, or null: the first
};

/// Half-open range of atoms (or edges) that one thread works on.
struct Range {
  int64_t begin;
  int64_t end;
};

/// Weights of the channel mixing, [S, l_max+1, C, K].
template <class T>
struct MixShape {
  int l_max;
  int n_inputs;            // C
  int n_channels;          // K
  const int64_t* species;  // [N]
};

/// Rows of channels that one matrix maps: rows in .. in+width-1 of an atom to its rows out .. out+width-1.
struct RowBlock {
  int32_t in;
  int32_t out;
  int32_t width;
  bool adds;  // to what an earlier block has written there
};

/// Maps of rows of channels, weights [S, n_blocks, C, row] with rows padded with zeros.
struct RowMapShape {
  int n_in;   // rows of each atom, of C numbers
  int n_out;  // rows of each atom, of `row` numbers
  int n_inputs;
  int row;
  int n_species;
  std::vector<RowBlock> blocks;
  const int64_t* species;  // [N], or null: all the first
};

/// Node of a Horner tree of monomials: children are first_child .. last_child-1.
struct TreeNode {
  int32_t factor;
  int32_t first_child;
  int32_t last_child;
};

/// What is wrong with a tree of monomials of the harmonics A_0 .. A_{n_harmonics-1}, or an empty text: children must follow
/// their parent, stay inside the tree and be at most max_order deep. The traversal relies on it.
std::string tree_fault(const std::vector<TreeNode>& tree, const std::vector<int32_t>& roots, int n_harmonics);

/// Levels of a tree without fault.
int tree_depth(const TreeNode* tree, const int32_t* roots, int n_outputs);

/// Channels whose coefficients of a product may lie together, one node of the tree after the other: in rows of all channels
/// those of one block would share few places of the nearest cache.
constexpr int coefficient_block = 16;

struct ProductShape {
  int n_harmonics;
  int n_channels;
  int n_nodes;
  int n_outputs;
  int depth;               // of the tree
  const TreeNode* tree;    // [n_nodes]
  const int32_t* roots;    // [n_outputs+1]
  const int64_t* species;  // [N]
};

/// Terms of a message as a model or a caller lists them: indices of path, output component, harmonic and component of h.
struct MessageTerm {
  int32_t path;
  int32_t out;
  int32_t harmonic;
  int32_t component;
};

/// The same terms in groups: rows of a path (which share its radial weights), entries of a row (which share its component of
/// h) and terms of an entry (which share its output component).
template <class T>
struct MessageTable {
  struct Row {
    int32_t component;  // of h
    int32_t first_entry;
    int32_t last_entry;
  };
  struct Entry {
    int32_t out;
    int32_t first_term;
    int32_t last_term;
  };
  struct Term {
    int32_t harmonic;
    T coupling;
  };
  std::vector<int32_t> path_rows;  // [P+1] rows of path p: path_rows[p] .. path_rows[p+1]-1
  std::vector<Row> rows;
  std::vector<Entry> entries;
  std::vector<Term> terms;

  /// Groups terms in which message_fault finds nothing wrong.
  MessageTable(const std::vector<MessageTerm>& terms, const double* couplings, int n_paths);
};

/// What is wrong with a list of terms, or an empty text: indices must lie inside their arrays, and the terms must be sorted
/// by path, component of h and output component.
std::string message_fault(const std::vector<MessageTerm>& terms, int n_paths, int n_harmonics, int n_outputs,
                          int n_components);

/// Sizes of a message. Rows of channels are padded to whole packs.
template <class T>
struct MessageShape {
  int n_radial;      // Q
  int n_harmonics;   // LM
  int n_outputs;     // components of the message
  int n_components;  // HM, of h
  int row;           // channels of a row, padded
  const MessageTable<T>* table;
};

constexpr double coulomb_constant = 14.399645;  // e^2/(4 pi epsilon_0) in eV Å
constexpr double screening_length = 0.46850;    // 0.8854 Bohr radii in Å, over Z_i^0.23 + Z_j^0.23
constexpr double screening_exponent = 0.23;

/// Screening function of the nuclear repulsion, sum_n amplitude[n] exp(-decay[n] r/a), and how it is switched off: between
/// `inner` and `outer` (Å), or, with power > 0, by the polynomial of that power that ends at a distance of each pair.
struct Repulsion {
  double inner = 0;
  double outer = 0;
  double amplitude[4] = {0.18175, 0.50986, 0.28022, 0.02817};
  double decay[4] = {3.19980, 0.94229, 0.40290, 0.20162};
  int power = 0;
};

/// One differentiable array: values and, for directional derivatives, tangents (or null).
template <class T>
struct Field {
  T* values = nullptr;
  T* tangents = nullptr;
};

/// What messages are made of; with tangents the derivative along them: all have some or none has, but those of the weights
/// may be null for zeros. Edges of atom i are first[i] .. first[i+1]-1.
template <class T>
struct MessageInputs {
  Field<const T> radial;     // [E, Q]
  Field<const T> angular;    // [E, LM]
  Field<const T> h;          // [n_rows, HM, row], rows of channels padded with zeros
  Field<const T> weights;    // [P, Q, row]
  const int64_t* first;      // [N+1]
  const int64_t* neighbors;  // [E] rows of h
};

/// Gradients of <G, message>; h is always wanted, null means that others are not (radial and angular go together).
template <class T>
struct MessageOutputs {
  T* radial;   // [E, Q]
  T* angular;  // [E, LM]
  T* h;        // [., HM, row] rows of h from first_row on, added to
  int64_t first_row;
  T* weights;  // [P, Q, row], added to
  T* out;      // with tangents: that of the message [N, n_outputs, row]
};

/// The operators compiled for one instruction set. Outputs are overwritten unless said otherwise.
template <class T>
struct Kernels {
  const char* instruction_set;
  // harmonics [E,LM] of edge vectors; with tangents: the derivative along them, else the value
  void (*harmonics)(const HarmonicConstants<T>&, const T* vectors, const T* tangents, Range, T* out);
  // gradient [E,3] of <G, Y>; with tangents: its derivative along them
  void (*harmonics_gradient)(const HarmonicConstants<T>&, const T* vectors, const T* tangents, const T* G, Range, T* out);
  // R, R', R'' [E,Q]; tables [E] of a spline, or null
  // `second` may be null
  void (*radial)(const RadialBasis<T>&, const T* distances, const int64_t* tables, Range, T* value, T* first, T* second);
  // energy, first and second derivative [E] of the repulsion of pairs with strength (eV Å) and 1/screening length (1/Å)
  void (*repulsion)(const Repulsion&, const T* distances, const T* strength, const T* inverse_screening, Range, T* value,
                    T* first, T* second);
  // density [N,C,LM]; with edges.tangents: its derivative along them
  void (*density)(const DensityOptions<T>&, const Edges<T>&, Range atoms, T* out);
  // gradient [E,3] of <G, density>; with edges.tangents: its derivative along them
  void (*density_gradient)(const DensityOptions<T>&, const Edges<T>&, const T* G, Range atoms, T* out);
  void (*mix)(const MixShape<T>&, const T* features, const T* weights, Range, T* out);
  void (*mix_input_gradient)(const MixShape<T>&, const T* G, const T* weights, Range, T* out);
  // adds to out [S, l_max+1, C, K]
  void (*mix_weight_gradient)(const MixShape<T>&, const T* features, const T* G, Range, T* out);
  // out [N,n_out,row] of x [N,n_in,C]; every row of out belongs to a block
  void (*map_rows)(const RowMapShape&, const T* x, const T* weights, Range, T* out);
  // adds to out [S, n_blocks, C, row]; G [N,n_out,row]
  void (*map_rows_weight_gradient)(const RowMapShape&, const T* x, const T* G, Range, T* out);
  // product [N,n_out,K]
  void (*product)(const ProductShape&, const T* A, const T* coefficients, Range, T* out);
  // <G, product> differentiated: gA [N,LM,K] overwritten, gc [S,n_nodes,K] added to unless its values are null.
  // With A.tangents (and coefficients.tangents or null): the tangents of gA, gc and of the product itself.
  void (*product_gradient)(const ProductShape&, Field<const T> A, Field<const T> coefficients, const T* G, Range, T* gA,
                           T* gc);
  void (*product_gradient_tangent)(const ProductShape&, Field<const T> A, Field<const T> coefficients, const T* G, Range,
                                   T* gA, T* gc, T* out);
  // messages [N,n_outputs,row]; without tangents
  void (*message)(const MessageShape<T>&, const MessageInputs<T>&, Range atoms, T* out);
  // <G, message> differentiated; with tangents: the tangents of the gradients and of the message
  void (*message_gradient)(const MessageShape<T>&, const MessageInputs<T>&, const T* G, Range atoms,
                           const MessageOutputs<T>&);
  // the machine's rate on one core, in about 0.1 s
  double (*multiply_adds_per_second)();
};

/// Kernels for the best instruction set of this machine, or the one chosen by use_instruction_set (dispatch.hpp).
template <class T>
const Kernels<T>& kernels();

}  // namespace tesseral
