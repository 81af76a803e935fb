# Included by CMake before the project of llama-cpp-python, through CMAKE_PROJECT_INCLUDE.
# Its build forces llama.cpp's "common" library on, 57 of 140 compile steps that the Python package
# never loads. Measured on 2 cores: 179 s with it and with vision, 74 s without both.
set(LLAMA_BUILD_COMMON OFF)
