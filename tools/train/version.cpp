/// The only file compiled with the commit: a new one recompiles nothing else.
#include "tools/train/version.h"

namespace flare {

const char* git_version() { return FLARE_GIT; }

}  // namespace flare
