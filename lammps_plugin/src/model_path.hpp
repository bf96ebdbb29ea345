// Where the plugin, its companions and the shipped models lie.
#pragma once

#include <string>
#include <vector>

namespace tesseral {

/// Folder of the plugin.
std::string plugin_folder();

/// Names of the models shipped beside the plugin, sorted.
std::vector<std::string> shipped_models();

/// Path of a shipped model.
std::string shipped_path(const std::string& name);

}  // namespace tesseral
