package Table;

use strict;
use warnings;

# Lines `name number` as columns, the largest number first.
sub columns {
    my @rows = sort { $b->[1] <=> $a->[1] } map { [ /^(.+) (\d+)$/ ] } @_;
    return map { sprintf "%-10s %6d", @$_ } @rows;
}

1;
