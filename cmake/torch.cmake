# The target `torch`: headers and libraries of the torch whose configuration for CMake is in Torch_DIR. The configuration itself
# wants all of CUDA for a torch that can use it, while nothing here calls CUDA through torch.
get_filename_component(torch_folder "${Torch_DIR}/../../.." ABSOLUTE)
if(NOT EXISTS "${torch_folder}/include/torch/script.h")
  message(FATAL_ERROR "Torch_DIR is '${Torch_DIR}', but there is no torch in ${torch_folder}: it must be torch's share/cmake/Torch")
endif()
add_library(torch INTERFACE)
target_include_directories(torch SYSTEM INTERFACE
  "${torch_folder}/include" "${torch_folder}/include/torch/csrc/api/include")
foreach(name torch_cpu c10)
  find_library(${name}_library ${name} PATHS "${torch_folder}/lib" NO_DEFAULT_PATH NO_CACHE REQUIRED)
  target_link_libraries(torch INTERFACE "${${name}_library}")
endforeach()
