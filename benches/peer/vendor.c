// MKL, which computes PyTorch's matrix products, takes kernels of half the width on processors that are not Intel's. With this
// file in LD_PRELOAD it uses everything that the processor offers, which makes its products 2.1 times as fast on a Zen 5. So
// PyTorch is measured at its best; PEER_MKL=shipped measures it as it comes.
//
//   cc -O2 -shared -fPIC -o vendor.so vendor.c

int mkl_serv_intel_cpu_true(void) { return 1; }
