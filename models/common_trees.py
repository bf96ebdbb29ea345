"""Trees of the usual products as C++ constants, from which the compiler makes code without loops.

`python -m tesseral.models.common_trees > kernel/include/tesseral/common_trees.hpp` writes them anew.
"""

from __future__ import annotations

from tesseral.models.coupling import ProductTable, tensor_basis

#: l_max, nu, highest degree of the outputs
SIZES = ((2, 3, 0), (3, 2, 0), (3, 3, 0), (4, 3, 0), (2, 3, 1), (3, 3, 1))
NODES_OF_A_LINE = 16

HEAD = """\
// Trees of monomials of the usual products: `python -m tesseral.models.common_trees` wrote this file.
// clang-format off
#pragma once

#include "tesseral/common_tree.hpp"

namespace tesseral {
"""


def _constant(name: str, table: ProductTable) -> str:
    """One tree, rows {factor, number of children}."""
    rows = [f"{{{factor},{last - first}}}" for factor, first, last in table.tree.tolist()]
    lines = [",".join(rows[begin : begin + NODES_OF_A_LINE]) for begin in range(0, len(rows), NODES_OF_A_LINE)]
    roots = ", ".join(map(str, table.roots.tolist()))
    nodes = ",\n  ".join(lines)
    return f"""
struct {name} {{
  static constexpr CommonTree<{len(rows)}, {len(table.roots) - 1}> tree{{{{
  {nodes}}},
  {{{roots}}}}};
}};
"""


def header() -> str:
    """Contents of kernel/include/tesseral/common_trees.hpp."""
    names = [f"TreeL{l_max}Nu{nu}Out{l_out}" for l_max, nu, l_out in SIZES]
    constants = [_constant(name, tensor_basis(*size)) for name, size in zip(names, SIZES, strict=True)]
    cases = "\n".join(f"    case {number}: return f({name}{{}});" for number, name in enumerate(names))
    tests = "\n".join(f"  if ({name}::tree.equals(tree, roots)) return {number};" for number, name in enumerate(names))
    return f"""{HEAD}{"".join(constants)}
/// f of the type that has the common tree of this number.
template <class F>
void with_common_tree(int number, const F& f) {{
  switch (number) {{
{cases}
    default: __builtin_unreachable();
  }}
}}

/// Number of the common tree that a tree is, or -1.
inline int common_tree(const std::vector<TreeNode>& tree, const std::vector<int32_t>& roots) {{
{tests}
  return -1;
}}

}}  // namespace tesseral
"""


if __name__ == "__main__":
    print(header(), end="")
