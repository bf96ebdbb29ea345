# The target `torch`: headers and libraries of an installed torch, whose folder (with include and lib) is torch_folder. torch's
# own configuration for CMake wants all of CUDA for a torch that can use it, while nothing here calls CUDA through torch.
add_library(torch INTERFACE)
target_include_directories(torch SYSTEM INTERFACE
  "${torch_folder}/include" "${torch_folder}/include/torch/csrc/api/include")
foreach(name torch_cpu c10)
  find_library(${name}_library ${name} PATHS "${torch_folder}/lib" NO_DEFAULT_PATH NO_CACHE REQUIRED)
  target_link_libraries(torch INTERFACE "${${name}_library}")
endforeach()
