// The system's liblz4, of which the frame format is used.
#include <lz4frame.h>
