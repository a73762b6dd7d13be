/* Preloaded, this lets a CUDA build of torch work on fake tensors where no driver is: as libcuda.so.1 (its soname) it has
   the only call of the driver that remains, and it says how many devices there are in libc10_cuda's place.
   gcc -shared -fPIC -Wl,-soname,libcuda.so.1 shim.c -o shim.so; LD_PRELOAD=shim.so python ... */

static signed char devices = 0;

void set_device_count(int count) { devices = (signed char)count; }

/* c10::cuda::device_count(): 0 while torch is imported, so that it installs a device guard that does nothing */
signed char _ZN3c104cuda12device_countEv(void) { return devices; }

/* the autograd engine asks on which devices there is a context: on none */
int cuDevicePrimaryCtxGetState(int device, unsigned int *flags, int *active) {
    (void)device;
    *flags = 0;
    *active = 0;
    return 0;
}
