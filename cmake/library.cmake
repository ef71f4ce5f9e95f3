# libflare: everything but the command line, for the program, the tests, and other projects. It is shared because ops, tasks and
# data sets register themselves before main(), which a static library would lose.
add_library(libflare SHARED ${FLARE_OBJECTS} $<TARGET_OBJECTS:flare_tools>)
set(flare_object_libraries flare_core flare_autograd flare_ops flare_nn flare_datasets flare_tools)
set_target_properties(${flare_object_libraries} PROPERTIES POSITION_INDEPENDENT_CODE ON)
set_target_properties(libflare PROPERTIES OUTPUT_NAME flare EXPORT_NAME flare LINKER_LANGUAGE CXX VERSION ${PROJECT_VERSION}
                                          SOVERSION ${PROJECT_VERSION_MAJOR}.${PROJECT_VERSION_MINOR})
target_link_libraries(libflare PRIVATE flare_options)

# Inside the library a call goes straight to the library's own function, as in a program: no detour through a table, and no
# replacement of an inline function by a copy that another project compiled with other flags, whose last bits may differ.
include(CheckLinkerFlag)
check_linker_flag(CXX "-Wl,-Bsymbolic-functions" FLARE_LINKER_BINDS_FUNCTIONS)
if(FLARE_LINKER_BINDS_FUNCTIONS)
  target_link_options(libflare PRIVATE -Wl,-Bsymbolic-functions)
endif()
if(CMAKE_CXX_COMPILER_ID MATCHES "GNU|Clang")
  foreach(library ${flare_object_libraries})
    target_compile_options(${library} PRIVATE $<$<COMPILE_LANGUAGE:CXX>:-fno-semantic-interposition>
                                              $<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-fno-semantic-interposition>)
  endforeach()
endif()

# What others need to compile against it; everything else it links is its own matter.
include(GNUInstallDirs)
target_compile_features(libflare INTERFACE cxx_std_20)
target_include_directories(libflare INTERFACE $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
if(FLARE_SANITIZE)
  target_compile_options(libflare INTERFACE -fsanitize=address,undefined)
  target_link_options(libflare INTERFACE -fsanitize=address,undefined)
endif()
