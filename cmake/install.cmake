# Library, header, command, pkg-config file and CMake package.

install(TARGETS cllm_shared EXPORT codecllm-targets
    LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}
    PUBLIC_HEADER DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
if(TARGET cllm_cli)
    install(TARGETS cllm_cli RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endif()
if(TARGET cllm_cuda)
    install(TARGETS cllm_cuda LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
endif()
install(FILES ${PROJECT_SOURCE_DIR}/LICENSE ${PROJECT_SOURCE_DIR}/docs/FORMAT.md DESTINATION ${CMAKE_INSTALL_DOCDIR})

configure_file(${PROJECT_SOURCE_DIR}/cmake/codecllm.pc.in codecllm.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/codecllm.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)

set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/codecllm)
install(EXPORT codecllm-targets NAMESPACE codecllm:: DESTINATION ${package_dir})
configure_package_config_file(${PROJECT_SOURCE_DIR}/cmake/codecllm-config.cmake.in
    ${PROJECT_BINARY_DIR}/codecllm-config.cmake INSTALL_DESTINATION ${package_dir})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/codecllm-config-version.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/codecllm-config.cmake ${PROJECT_BINARY_DIR}/codecllm-config-version.cmake
    DESTINATION ${package_dir})
