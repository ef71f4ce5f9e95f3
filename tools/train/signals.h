#pragma once

namespace flare {

/// Makes SIGINT and SIGTERM ask the run to stop at the next step boundary; a second signal ends the process at once (exit 130).
/// `when`, of static storage, is what the notice on stderr says it stops after.
void catch_stop_signals(const char* when = "after this step");
/// Whether one has arrived.
bool stop_requested();
/// For tests: as if a signal had arrived, or none.
void set_stop_requested(bool on);

/// A run that was asked to stop, has saved, and ends with exit code 130.
inline constexpr int kExitInterrupted = 130;

}  // namespace flare
