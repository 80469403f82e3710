// The system's libnghttp2.
#include <nghttp2/nghttp2.h>
