// The bandwidth of an MPI all-reduce as t6 plan --bus-gbs takes it: 2 (n - 1) / n bytes / time. bench/scaling.sh builds
// it.
//
//   mpirun -n 2 allreduce [MiB, 32 without it] [rounds, 9 without it]
//
// Prints "RANKS MiB GB/s", of the median round, by the slowest rank of each.
#include <mpi.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <vector>

int main(int argc, char** argv) {
  MPI_Init(&argc, &argv);
  int ranks = 1, rank = 0;
  MPI_Comm_size(MPI_COMM_WORLD, &ranks);
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  const int mib = argc > 1 ? std::atoi(argv[1]) : 32, rounds = argc > 2 ? std::atoi(argv[2]) : 9;
  if (mib < 1 || rounds < 1) {
    if (rank == 0) std::fprintf(stderr, "allreduce: expected MiB and rounds above zero\n");
    MPI_Finalize();
    return 2;
  }
  std::vector<float> data(static_cast<size_t>(mib) << 18, 0.0f);
  std::vector<double> seconds;
  for (int round = -1; round < rounds; ++round) {
    MPI_Barrier(MPI_COMM_WORLD);
    const double begin = MPI_Wtime();
    MPI_Allreduce(MPI_IN_PLACE, data.data(), static_cast<int>(data.size()), MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
    double took = MPI_Wtime() - begin, slowest = 0;
    MPI_Allreduce(&took, &slowest, 1, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
    if (round >= 0) seconds.push_back(slowest);  // the first round maps memory
  }
  std::nth_element(seconds.begin(), seconds.begin() + rounds / 2, seconds.end());
  const double bytes = static_cast<double>(data.size() * sizeof(float)), n = ranks;
  if (rank == 0) {
    std::printf("%d %d %.3f\n", ranks, mib, 2 * (n - 1) / n * bytes / seconds[static_cast<size_t>(rounds / 2)] * 1e-9);
  }
  MPI_Finalize();
}
