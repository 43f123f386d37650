#include "dunlin_torch.h"
