# Run by cmake --install: copies the headers from flare_source_dir to flare_headers_dir/flare and puts "flare/" before the paths by
# which they include each other.
file(REMOVE_RECURSE "${flare_headers_dir}")
foreach(folder core autograd ops nn datasets tools)
  file(GLOB_RECURSE headers RELATIVE "${flare_source_dir}" "${flare_source_dir}/${folder}/*.h" "${flare_source_dir}/${folder}/*.cuh")
  list(FILTER headers EXCLUDE REGEX "^tools/cli/")  # of the program, not of the library
  foreach(header ${headers})
    file(READ "${flare_source_dir}/${header}" text)
    string(REGEX REPLACE "(#[ \t]*include[ \t]*\")((core|autograd|ops|nn|datasets|tools)/)" "\\1flare/\\2" text "${text}")
    file(WRITE "${flare_headers_dir}/flare/${header}" "${text}")
  endforeach()
endforeach()
