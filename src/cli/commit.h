// Which sources the program was built from.
#pragma once

namespace fastwan::cli {

// Twelve digits of the last commit that changed them, with "-dirty" behind where files differ from
// it; "unknown" for a build outside git.
const char* source_commit();

}  // namespace fastwan::cli
