#pragma once
#include <cstdint>
#include <string>

namespace flare {

/// Imports the Large Movie Review Dataset (DIR/aclImdb or DIR itself: {train,test}/{pos,neg}/ID_RATING.txt) for byte-level
/// sentiment classification. Fields: tokens u8 (byte + 1, the first 4096 bytes), labels u8 (1: positive). test is the official one;
/// the official task has no validation set, so val is carved from train: of each class the tenth whose SHA-256 is smallest, all
/// copies of a text together, and none of a text that is in test too. `per_folder`: reviews that each of the four folders must
/// hold. DataError for missing, truncated (a gap in the IDs, an empty file), mislabelled (a rating that does not belong to the
/// folder, one text with both labels), duplicated (an ID twice) and oversized files.
void import_imdb(const std::string& source_dir, const std::string& out_dir, int64_t per_folder = 12500);

}  // namespace flare
