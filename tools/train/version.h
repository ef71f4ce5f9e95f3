#pragma once

namespace flare {

/// The commit the program was configured from, 12 hexadecimal digits; "unknown" outside a clone.
const char* git_version();

}  // namespace flare
