// The HDF5 type of a DType in a file; in memory it is the same, as this program runs on little-endian machines only.
#pragma once

#include "base/hdf5.h"
#include "tensor/dtype.h"

namespace t6::checkpoint {

// bf16 is described bit by bit: HDF5 has no name for it.
inline hdf5::Handle hdf5_bf16() {
  hdf5::Handle type(H5Tcopy(H5T_IEEE_F32LE), H5Tclose);
  const bool ok = type >= 0 && H5Tset_fields(type, 15, 7, 8, 0, 7) >= 0 && H5Tset_precision(type, 16) >= 0 &&
                  H5Tset_size(type, 2) >= 0 && H5Tset_ebias(type, 127) >= 0;
  T6_CHECK(ok, "HDF5 type of bf16: {}", hdf5::last_error());
  return type;
}

inline hdf5::Handle hdf5_type(DType dtype) {
  switch (dtype) {
    case DType::bf16:
      return hdf5_bf16();
    case DType::f64:
      return {H5Tcopy(H5T_IEEE_F64LE), H5Tclose};
    case DType::i32:
      return {H5Tcopy(H5T_STD_I32LE), H5Tclose};
    default:
      return {H5Tcopy(H5T_IEEE_F32LE), H5Tclose};
  }
}

}  // namespace t6::checkpoint
