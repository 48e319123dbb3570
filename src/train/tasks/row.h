// One row of a file of a task: a JSON object in any of the forms that are read.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "train/tasks/prompts.h"
#include "train/tasks/task.h"

namespace t6::train {

class RowReader {
 public:
  // `name` stands for the file in messages.
  RowReader(TaskName task, std::string name);
  ~RowReader();

  // Error(data) "name:number: key ...: expected ..., got ...".
  Question read(std::string_view line, uint64_t number);

 private:
  struct Parser;
  TaskName task_;
  std::string name_;
  std::unique_ptr<Parser> parser_;
};

}  // namespace t6::train
