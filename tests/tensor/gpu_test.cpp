// Tensors on a GPU, and the order of work there. In a build without CUDA kernels only the messages are tested.
#include "tensor/gpu.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "base/error.h"
#include "support/device.h"
#include "tensor/tensor.h"

namespace t6 {
namespace {

constexpr Device kGpu{Device::Kind::cuda, 0};

class Gpu : public testing::Test {
 protected:
  void SetUp() override {
    if (!test::on_cuda()) GTEST_SKIP() << "runs as cuda.tensor.*";
    if (gpu::count() == 0) GTEST_SKIP() << gpu::why_none();
  }
};

TEST(GpuNone, SaysWhyThereIsNone) {
  if (gpu::count() > 0) GTEST_SKIP() << "there is a GPU";
  EXPECT_FALSE(gpu::why_none().empty());
  EXPECT_THROW(Tensor::zeros({3}, DType::f32, kGpu), Error);
}

TEST_F(Gpu, ConvertsAddsAndFillsAsTheCpuDoes) {
  std::vector<double> values;
  for (int i = 0; i < 1003; ++i) values.push_back(0.37 * i - 171.3);
  const Tensor host = Tensor::from<double>({1003}, values);
  for (const DType from : {DType::f32, DType::bf16, DType::f64}) {
    for (const DType to : {DType::f32, DType::bf16, DType::f64}) {
      const Tensor x = host.to(from);
      EXPECT_EQ(x.to(kGpu).to(to).to_doubles(), x.to(to).to_doubles()) << name_of(from) << " to " << name_of(to);
      const Tensor across = Tensor::empty({1003}, to, kGpu);
      across.copy_from(x);  // device and dtype at once
      EXPECT_EQ(across.to_doubles(), x.to(to).to_doubles());
      const Tensor sum = Tensor::full({1003}, to, 1.5), gpu_sum = Tensor::full({1003}, to, 1.5, kGpu);
      sum.add_from(x);
      gpu_sum.add_from(x.to(kGpu));
      EXPECT_EQ(gpu_sum.to_doubles(), sum.to_doubles()) << name_of(from) << " to " << name_of(to);
    }
  }
  EXPECT_EQ(Tensor::full({5}, DType::i32, -7, kGpu).to_doubles(), std::vector<double>(5, -7.0));
  EXPECT_EQ(Tensor::zeros({5}, DType::bf16, kGpu).to_doubles(), std::vector<double>(5, 0.0));
}

TEST_F(Gpu, AddRefusesTensorsOfTwoDevices) {
  EXPECT_THROW(Tensor::zeros({3}, DType::f32, kGpu).add_from(Tensor::zeros({3}, DType::f32)), Error);
}

TEST_F(Gpu, CountsMemoryInUseAndItsPeak) {
  const size_t before = gpu::memory().in_use;
  gpu::reset_peak();
  {
    const Tensor a = Tensor::empty({1000}, DType::f32, kGpu);
    const Tensor b = Tensor::empty({500}, DType::f32, kGpu);
    EXPECT_EQ(gpu::memory().in_use, before + 6000);
  }
  EXPECT_EQ(gpu::memory().in_use, before);
  EXPECT_EQ(gpu::memory().peak, before + 6000);
  EXPECT_LE(gpu::memory().free, gpu::memory().total);
}

TEST_F(Gpu, OutOfMemorySaysWhatWasAskedAndWhatIsFree) {
  const size_t total = gpu::memory().total;
  try {
    Tensor::empty({static_cast<int64_t>(total)}, DType::f32, kGpu);
    FAIL() << "expected OutOfMemory";
  } catch (const gpu::OutOfMemory& error) {
    EXPECT_EQ(error.asked, total * 4);
    EXPECT_NE(error.text.find("were asked for"), std::string::npos) << error.text;
  }
  EXPECT_EQ(Tensor::full({3}, DType::f32, 2, kGpu).to_doubles(), std::vector<double>(3, 2.0));  // and works on
}

TEST_F(Gpu, GuardsCatchAnOverrun) {
  memory::set_poison(true);
  const Tensor t = Tensor::empty({5}, DType::f32, kGpu);
  EXPECT_TRUE(std::isnan(t.to_doubles()[0]));
  EXPECT_NO_THROW(memory::check_guards());
  gpu::HostBuffer bytes(24);
  std::memset(bytes.data(), 0, 24);
  gpu::copy_to_device(t.raw(), bytes, 24);
  EXPECT_THROW(memory::check_guards(), Error);
  memory::set_poison(false);
}

TEST_F(Gpu, CopiesThroughPageLockedMemory) {
  gpu::HostBuffer out(12), back(12);
  const float values[3] = {1, 2, 3};
  std::memcpy(out.data(), values, 12);
  const Tensor t = Tensor::empty({3}, DType::f32, kGpu);
  gpu::copy_to_device(t.raw(), out, 12);
  gpu::copy_to_host(back, t.raw(), 12);
  gpu::Event done;
  done.record();
  done.wait();
  EXPECT_EQ(std::memcmp(back.data(), values, 12), 0);
  EXPECT_THROW(gpu::copy_to_host(back, t.raw(), 13), Error);
}

TEST_F(Gpu, GraphRunsWhatWasCaptured) {
  const Tensor sum = Tensor::zeros({3}, DType::f32, kGpu), one = Tensor::full({3}, DType::f32, 1, kGpu);
  gpu::Graph graph;
  EXPECT_THROW(graph.launch(), Error);
  graph.capture([&] {
    const Tensor two = one.clone();  // lives and dies in the graph
    two.add_from(one);
    sum.add_from(two);
  });
  EXPECT_EQ(sum.to_doubles(), std::vector<double>(3, 0.0));
  for (int i = 0; i < 3; ++i) graph.launch();
  EXPECT_EQ(sum.to_doubles(), std::vector<double>(3, 6.0));
}

TEST_F(Gpu, CaptureThatWaitsIsAnErrorAndLeavesTheDeviceUsable) {
  const Tensor one = Tensor::full({3}, DType::f32, 1, kGpu);
  gpu::Graph graph;
  EXPECT_THROW(graph.capture([&] { one.to_doubles(); }), Error);
  EXPECT_FALSE(graph.captured());
  EXPECT_EQ(one.to_doubles(), std::vector<double>(3, 1.0));
}

// A driver says so at some later call, or when the graph runs again.
TEST_F(Gpu, AGraphFreesWhatItAllocatesAndNothingElse) {
  if (gpu::info(0).name != "emulated GPU") GTEST_SKIP() << "the emulated GPU checks it";
  Tensor tensor = Tensor::empty({3}, DType::f32, kGpu);
  gpu::Graph graph;
  EXPECT_DEATH(graph.capture([&] { tensor = Tensor(); }), "freed in a capture that did not allocate it");
  Tensor kept;
  EXPECT_DEATH(graph.capture([&] { kept = Tensor::empty({3}, DType::f32, kGpu); }), "allocated in a capture and not");
}

TEST_F(Gpu, AFreeThatFailedIsReportedByTheNextCall) {
  if (gpu::info(0).name != "emulated GPU") GTEST_SKIP() << "no free fails on a GPU that works";
  Tensor tensor = Tensor::empty({3}, DType::f32, kGpu);
  gpu::synchronize();
  ASSERT_EQ(setenv("T6_EMULATED_FREE", "fails", 1), 0);
  tensor = Tensor();
  ASSERT_EQ(unsetenv("T6_EMULATED_FREE"), 0);
  try {
    gpu::synchronize();
    FAIL() << "nothing was reported";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("cudaFreeAsync"), std::string::npos) << error.what();
  }
  EXPECT_NO_THROW(gpu::synchronize());
}

// By the driver: of the pool, and of a graph beside it.
TEST_F(Gpu, ReservedMemoryIsThatOfPoolAndGraphs) {
  constexpr size_t kBytes = size_t{64} << 20;
  const Shape shape{static_cast<int64_t>(kBytes / 4)};
  gpu::release_cached();
  gpu::reset_peak();
  const size_t before = gpu::memory().reserved_peak;
  { const Tensor one = Tensor::zeros(shape, DType::f32, kGpu); }
  const size_t with_pool = gpu::memory().reserved_peak;
  EXPECT_GE(with_pool, before + kBytes);
  EXPECT_LE(with_pool, before + 2 * kBytes);
  gpu::Graph graph;
  graph.capture([&] {
    for (int i = 0; i < 3; ++i) Tensor::zeros(shape, DType::f32, kGpu);  // one after the other
  });
  graph.launch();
  gpu::synchronize();
  const gpu::Memory memory = gpu::memory();
  EXPECT_GE(memory.reserved_peak, with_pool + kBytes);
  EXPECT_LE(memory.reserved_peak, with_pool + 2 * kBytes);
  EXPECT_GE(memory.total - memory.free, kBytes);
}

}  // namespace
}  // namespace t6
