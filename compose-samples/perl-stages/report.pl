use strict;
use warnings;

use Table;

chomp( my @lines = <> );
print "$_\n" for Table::columns(@lines);
