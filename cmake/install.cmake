# cmake --install build [--prefix P] [--component runtime|development]
#   runtime      the program, libflare.so.<version>, the recipes, the licence
#   development  headers, libflare.so, and the files with which CMake and pkg-config find them
include(CMakePackageConfigHelpers)
set(flare_cmake_dir ${CMAKE_INSTALL_LIBDIR}/cmake/flare)

# The program finds the library beside it, as in the build folder, or in lib/; CUDA's libraries keep their place. No path of the
# build tree is ever written, so installing changes no file.
file(RELATIVE_PATH flare_bin_to_lib ${CMAKE_INSTALL_FULL_BINDIR} ${CMAKE_INSTALL_FULL_LIBDIR})
set_target_properties(flare PROPERTIES INSTALL_RPATH "$ORIGIN;$ORIGIN/${flare_bin_to_lib}")
set_target_properties(flare libflare PROPERTIES INSTALL_RPATH_USE_LINK_PATH ON BUILD_WITH_INSTALL_RPATH ON)

install(TARGETS flare RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR} COMPONENT runtime)
install(TARGETS libflare EXPORT flareTargets LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT runtime
                                                    NAMELINK_COMPONENT development)
install(DIRECTORY tools/configs DESTINATION ${CMAKE_INSTALL_DATADIR}/flare COMPONENT runtime)
install(DIRECTORY tools/python DESTINATION ${CMAKE_INSTALL_DATADIR}/flare COMPONENT runtime USE_SOURCE_PERMISSIONS
        PATTERN __pycache__ EXCLUDE)
install(FILES LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR} COMPONENT runtime)

# The sources include each other as "core/tensor.h". Installed like that, core/, ops/ or tools/ on a search path would meet folders
# of the same name in other projects, so the installed headers say "flare/core/tensor.h".
set(flare_headers_dir ${CMAKE_CURRENT_BINARY_DIR}/installed_headers)
install(CODE "set(flare_source_dir \"${CMAKE_CURRENT_SOURCE_DIR}\")\nset(flare_headers_dir \"${flare_headers_dir}\")"
        COMPONENT development)
install(SCRIPT cmake/headers.cmake COMPONENT development)
install(DIRECTORY ${flare_headers_dir}/flare DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} COMPONENT development)

install(EXPORT flareTargets NAMESPACE flare:: DESTINATION ${flare_cmake_dir} COMPONENT development)
configure_package_config_file(cmake/flareConfig.cmake.in flareConfig.cmake INSTALL_DESTINATION ${flare_cmake_dir}
                              NO_SET_AND_CHECK_MACRO NO_CHECK_REQUIRED_COMPONENTS_MACRO)
write_basic_package_version_file(flareConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/flareConfig.cmake ${CMAKE_CURRENT_BINARY_DIR}/flareConfigVersion.cmake
        DESTINATION ${flare_cmake_dir} COMPONENT development)

file(RELATIVE_PATH flare_pc_to_prefix ${CMAKE_INSTALL_FULL_LIBDIR}/pkgconfig ${CMAKE_INSTALL_PREFIX})
configure_file(cmake/flare.pc.in flare.pc @ONLY)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/flare.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig COMPONENT development)
