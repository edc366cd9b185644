<?php

require __DIR__ . '/../src/temperature.php';

foreach ([[-40.0, -40.0], [0.0, 32.0], [100.0, 212.0]] as [$celsius, $wanted]) {
    if (fahrenheit($celsius) !== $wanted) {
        fwrite(STDERR, "$celsius: " . fahrenheit($celsius) . " instead of $wanted\n");
        exit(1);
    }
}
try {
    fahrenheit(-300);
    exit(1);
} catch (DomainException) {
    echo "ok\n";
}
