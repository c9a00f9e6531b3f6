#include "trainer/data/unicode_classes.h"

#include <algorithm>
#include <array>
#include <vector>

#include "gossip/base/error.h"

namespace starling::trainer {
namespace {

// In the order of unicode_classes.py.
constexpr std::array<std::string_view, 30> category_names{"Cn", "Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Me", "Nd",
                                                          "Nl", "No", "Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po", "Sm",
                                                          "Sc", "Sk", "So", "Zs", "Zl", "Zp", "Cc", "Cf", "Cs", "Co"};

constexpr std::uint32_t ranges[] = {
#include "trainer/data/unicode_classes.inc"
};

constexpr std::size_t code_points = 0x110000;
constexpr std::size_t block_size = 256;

// The ranges spread out: a number of a block for each 256 code points, equal blocks once.
class CategoryTable {
 public:
  CategoryTable() {
    std::size_t range = 0;
    Block block;
    for (std::size_t first = 0; first < code_points; first += block_size) {
      for (std::size_t i = 0; i < block_size; ++i) {
        while (range + 1 < std::size(ranges) && (ranges[range + 1] >> 8) <= first + i) ++range;
        block[i] = static_cast<std::uint8_t>(ranges[range] & 0xff);
      }
      const auto known = std::find(blocks_.begin(), blocks_.end(), block);
      block_of_[first / block_size] = static_cast<std::uint16_t>(known - blocks_.begin());
      if (known == blocks_.end()) blocks_.push_back(block);
    }
  }
  std::uint8_t operator[](char32_t c) const { return blocks_[block_of_[c / block_size]][c % block_size]; }

 private:
  using Block = std::array<std::uint8_t, block_size>;
  std::vector<Block> blocks_;
  std::array<std::uint16_t, code_points / block_size> block_of_{};
};

}  // namespace

CategorySet category_of(char32_t code_point) {
  static const CategoryTable table;
  STARLING_CHECK(code_point < code_points, "a code point of Unicode");
  return CategorySet{1} << table[code_point];
}

std::optional<CategorySet> category_set(std::string_view name) {
  CategorySet set = 0;
  for (std::size_t i = 0; i < category_names.size(); ++i) {
    if (category_names[i] == name || (name.size() == 1 && category_names[i][0] == name[0])) set |= CategorySet{1} << i;
  }
  if (set == 0) return std::nullopt;
  return set;
}

}  // namespace starling::trainer
