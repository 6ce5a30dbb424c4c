// MKL, which PyTorch's matrix products are, takes kernels of half the width on processors that Intel did not make. With this
// in LD_PRELOAD it goes by what the processor can do: on a Zen 5 its products are then 2.1 times as fast. So PyTorch is
// measured at its best; PEER_MKL=shipped measures it as it comes.
//
//   cc -O2 -shared -fPIC -o vendor.so vendor.c

int mkl_serv_intel_cpu_true(void) { return 1; }
