// The system's libsnappy, by its C interface.
#include <snappy-c.h>
