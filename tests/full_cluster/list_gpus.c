/* Prints the UUID of each GPU that NVML shows, one a line, as any NVML client finds them: by the
 * library's name, where the loader looks by itself. */
#include <dlfcn.h>
#include <stdio.h>

typedef int (*plain)(void);
typedef int (*count_of)(unsigned int *);
typedef int (*handle_of)(unsigned int, void **);
typedef int (*uuid_of)(void *, char *, unsigned int);

int main(void) {
  void *library = dlopen("libnvidia-ml.so.1", RTLD_NOW);
  if (library == NULL) {
    fprintf(stderr, "no NVML here: %s\n", dlerror());
    return 3;
  }
  plain initialise = (plain)dlsym(library, "nvmlInit_v2");
  count_of count = (count_of)dlsym(library, "nvmlDeviceGetCount_v2");
  handle_of handle = (handle_of)dlsym(library, "nvmlDeviceGetHandleByIndex_v2");
  uuid_of uuid = (uuid_of)dlsym(library, "nvmlDeviceGetUUID");
  if (!initialise || !count || !handle || !uuid) return 4;

  unsigned int found = 0;
  int failed = initialise();
  if (!failed) failed = count(&found);
  for (unsigned int i = 0; !failed && i < found; i++) {
    void *device;
    char text[96];
    failed = handle(i, &device);
    if (!failed) failed = uuid(device, text, sizeof text);
    if (!failed) puts(text);
  }
  if (failed) fprintf(stderr, "NVML answers %d\n", failed);
  return failed;
}
