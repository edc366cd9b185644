<?php

declare(strict_types=1);

require __DIR__ . '/temperature.php';

header('Content-Type: text/plain');
$celsius = filter_var($_GET['c'] ?? '', FILTER_VALIDATE_FLOAT);
try {
    if ($celsius === false) {
        throw new DomainException('say ?c= and a number');
    }
    echo fahrenheit($celsius), "\n";
} catch (DomainException $wrong) {
    http_response_code(400);
    echo $wrong->getMessage(), "\n";
}
